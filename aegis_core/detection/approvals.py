"""Two people for a promotion, and what they are shown.

With `require_approval` in the settings a champion is replaced in two steps: somebody proposes a
model, with what it did beside the champion, and somebody else approves. What is approved is what
was proposed: the same version, with the same files, in the place of the same champion. Only going
back needs one person alone, for an emergency: `models.rollback`, to a model that was champion.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection.comparison import compared
from aegis_core.detection.registry import load, promote, registered, roles
from aegis_core.errors import InputError, NotReady, did_you_mean
from aegis_core.machine import utc_now
from aegis_core.store import Store, audit, files
from aegis_core.store.session import Session

_OPEN: Final = (
    "SELECT proposal_id, version, champion, files_hash, comparison, who, why, proposed_at "
    "FROM nominations WHERE outcome IS NULL ORDER BY proposed_at, proposal_id"
)
_RUN: Final = "(SELECT run_id FROM models WHERE version = ?)"
_OF_MODEL: Final = (
    "SELECT run_id, notebook, status, started_at, data_hash, code_version, report_path FROM runs "
    f"WHERE run_id = {_RUN}",
    f"SELECT name, slice, value FROM metrics WHERE run_id = {_RUN} ORDER BY name, slice",
    "SELECT count(*) AS n FROM verdicts WHERE model_version = ?",
    "SELECT seq, recorded_at, who, action FROM audit WHERE subject = ? ORDER BY seq",
)


@dataclass(frozen=True)
class Proposal:
    """A model that somebody wants to be the champion, and nobody has decided about yet.

    `champion` is the one to be replaced, `files_hash` the checksum of the model's files, and
    `comparison` JSON: the rows of `comparison.compared` and its sentence.
    """

    proposal_id: str
    version: str
    champion: str
    files_hash: str
    comparison: str
    who: str
    why: str | None
    proposed_at: datetime

    def sentences(self, champion: str) -> list[str]:
        """What somebody who decides should read, given the champion of now."""
        told, outdated = json.loads(self.comparison), []
        if champion != self.champion:
            anew = f" `aegis models propose {self.version}` compares it anew;"
            outdated = [
                f"  Outdated: the champion is {champion} by now, so it cannot be approved."
                f"{anew * (champion != self.version)} `aegis models reject {self.proposal_id}` "
                "closes it."
            ]
        why = f" ({self.why})" if self.why else ""
        return [
            f"{self.proposal_id}: {self.version} for {self.champion}, proposed by {self.who} on "
            f"{self.proposed_at:%Y-%m-%d %H:%M} UTC{why}.",
            *(
                f"  {name}: " + ", ".join(f"{k} {_shown(v)}" for k, v in figures.items())
                for name, figures in told["figures"].items()
            ),
            f"  {told['told']}",
            *outdated,
        ]


def nominate(
    store: Store, settings: Settings, version: str, *, who: str, why: str = ""
) -> Proposal:  # fmt: skip
    """Propose that a model takes the champion's place, with what it did beside it.

    Raises
    ------
    InputError
        There is no such model, it is the champion, it is proposed already, or nobody says who.
    NotReady : There is no champion yet, or the model's files are gone or broken.
    """
    if not who.strip():
        raise InputError("Say who proposes the model.")
    with store.snapshot() as session:
        champion, _ = roles(session)
        row = registered(session, version)
        load(session, version, settings)
    if version == champion:
        raise InputError(f"{version} is the champion already.")
    checksum, beside = (
        files.folder_checksum(settings.home / row["path"]),
        _comparison(store, version),
    )
    said = who.strip(), why.strip() or None, utc_now()
    proposal = Proposal(uuid4().hex[:8], version, champion, checksum, json.dumps(beside), *said)
    with store.changing() as session:
        _must_lead(session, champion)
        for other in open_proposals(session):
            if other.version != version:
                continue
            if (other.champion, other.files_hash) == (champion, proposal.files_hash):
                raise InputError(f"{version} is proposed already: {other.proposal_id}.")
            _close(session, other, "superseded", who.strip(), proposal.proposal_id)
        row = asdict(proposal)
        session.append("nominations", pd.DataFrame([row]))
        about = {name: row[name] for name in ("proposal_id", "champion", "why", "files_hash")}
        audit.record(session, who, "propose", version, about | {"comparison": beside})
    return proposal


def approve(
    store: Store, settings: Settings, proposal_id: str, *, who: str, note: str = ""
) -> str:  # fmt: skip
    """Make a proposed model the champion; what changed, in a sentence.

    Raises
    ------
    InputError : There is no such open proposal, or the same person made it.
    NotReady : The champion or the model's files are not those of the proposal any more.
    """
    if not who.strip():
        raise InputError("Say who approves.")
    with store.changing() as session:
        proposal = _wanted(session, proposal_id)
        if _person(who) == _person(proposal.who):
            raise InputError(f"{proposal.who} proposed it; somebody else has to approve.")
        _must_lead(session, proposal.champion)
        row = registered(session, proposal.version)
        load(session, proposal.version, settings)
        if files.folder_checksum(settings.home / row["path"]) != proposal.files_hash:
            raise NotReady(
                f"The files of {proposal.version} are not those that were proposed. Reject the "
                "proposal, train again and propose that."
            )
        _close(session, proposal, "approved", who.strip(), note)
        about = {"proposal_id": proposal_id, "proposed_by": proposal.who, "note": note or None}
        audit.record(session, who, "approve", proposal.version, about)
        return promote(store, settings, proposal.version, who=who.strip())


def reject(store: Store, proposal_id: str, *, who: str, note: str = "") -> Proposal:
    """Close a proposal without promoting anything; whoever made it may, too.

    Raises
    ------
    InputError : There is no such open proposal, or nobody says who.
    """
    if not who.strip():
        raise InputError("Say who rejects.")
    with store.changing() as session:
        proposal = _wanted(session, proposal_id)
        _close(session, proposal, "rejected", who.strip(), note)
        about = {"proposal_id": proposal_id, "proposed_by": proposal.who, "note": note or None}
        audit.record(session, who, "reject", proposal.version, about)
    return proposal


def open_proposals(source: Store | Session) -> list[Proposal]:
    """Proposals that nobody has decided about yet, the oldest first."""
    return [Proposal(**row) for row in source.rows(_OPEN)]


def dossier(store: Store, settings: Settings, version: str) -> dict[str, Any]:
    """All that is known of a model.

    Returns
    -------
    dict
        `model` (its row of the register, and the checksum of its files), `parameters`, `policy`,
        `run` (the run that made it, or None), `metrics` of that run, `verdicts` (how many it gave),
        `history`: what the audit tells of it.

    Raises
    ------
    InputError : There is no such model.
    NotReady : Its files are gone or broken.
    """
    with store.snapshot() as session:
        row = registered(session, version)
        parameters = json.loads(row.pop("parameters") or "{}")
        policy = asdict(load(session, version, settings).policy)
        run, metrics, (verdicts,), history = (session.rows(query, [version]) for query in _OF_MODEL)
    row["files_hash"] = files.folder_checksum(settings.home / row["path"])
    made = {"model": row, "parameters": parameters, "policy": policy, "run": next(iter(run), None)}
    return made | {"metrics": metrics, "verdicts": verdicts["n"], "history": history}


def _comparison(store: Store, version: str) -> dict[str, Any]:
    try:
        table, told = compared(store, version)
    except NotReady as e:
        return {"figures": {}, "told": str(e)}
    table = table.astype(object).where(table.notna(), None)
    return {"figures": table.to_dict("index"), "told": told}


def _wanted(session: Session, proposal_id: str) -> Proposal:
    there = {p.proposal_id: p for p in open_proposals(session)}
    if proposal_id in there:
        return there[proposal_id]
    closed = session.rows(
        "SELECT outcome, decided_by FROM nominations WHERE proposal_id = ?", [proposal_id]
    )
    if closed:
        raise InputError(
            f"The proposal {proposal_id} was {closed[0]['outcome']} by {closed[0]['decided_by']}."
        )
    raise InputError(
        f"There is no proposal {proposal_id!r}; `aegis models` lists those that are open."
        + did_you_mean(proposal_id, list(there))
    )


def _must_lead(session: Session, champion: str) -> None:
    now, _ = roles(session)
    if now != champion:
        raise NotReady(
            f"The champion is {now} by now, and the comparison was with {champion}. Propose anew."
        )


def _close(session: Session, proposal: Proposal, outcome: str, who: str, note: str) -> None:
    session.execute(
        "UPDATE nominations SET outcome = ?, decided_by = ?, decided_at = ?, note = ? "
        "WHERE proposal_id = ? AND outcome IS NULL",
        [outcome, who, utc_now(), note or None, proposal.proposal_id],
    )


def _person(who: str) -> str:
    return " ".join(who.split()).casefold()


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
