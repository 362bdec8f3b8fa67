"""The register of models: which there are, and which of them judge.

The champion decides; challengers in shadow score the same transactions beside it and decide
nothing. A model becomes either only by `promote`, which says who did it; `rollback` goes back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection.detector import Detector
from aegis_core.detection.learner import Learner
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scored
from aegis_core.errors import InputError, NotReady, did_you_mean
from aegis_core.features.arrays import Floats, Ints, Rows
from aegis_core.features.entries import judged_rows
from aegis_core.machine import utc_now
from aegis_core.metrics import weighted_share
from aegis_core.schema import ANSWERED, NO_TRY, Decision, held_labels
from aegis_core.store import Store, audit, files
from aegis_core.store.session import Session

KINDS: Final[dict[str, type[Detector] | type[Learner]]] = {"forest": Detector, "learner": Learner}
"""Kinds of models, and the class of each."""
ROLES: Final = {"champion": "promote", "shadow": "shadow", "none": "retire"}
"""What a registered model may be doing, and what the audit calls it when it begins to."""
_ALL: Final = slice(None)

_LISTED = """
    SELECT version, detector AS kind, path, n_train, trained_from, trained_to, created_at,
      promoted_at, shadow_since, data_hash, run_id, parameters,
      CASE WHEN version = (SELECT arg_max(version, promoted_at) FROM models) THEN 'champion'
        WHEN shadow_since IS NOT NULL THEN 'shadow' ELSE 'none' END AS role
    FROM models ORDER BY created_at DESC, version DESC
"""


@dataclass(frozen=True)
class ModelVersion:
    """A trained model with its policy, ready to score."""

    version: str
    model: Detector | Learner
    policy: Policy

    def judge(self, frame: Rows, scored: Scored) -> pd.DataFrame:
        """What this model says of transactions that another one took through the pass.

        `scored` is of `Scorer.run` with `signals`, and for a learner with answers. The columns are
        those of the table `shadow_scores`.
        """
        score = np.where(judged_rows(frame), rated(self.model, scored), 0.0)
        return pd.DataFrame(
            {
                "seq": np.asarray(frame["seq"]),
                "transaction_id": list(frame["transaction_id"]),
                "model_version": self.version,
                "score": score,
                "risk": self.model.risk(score),
                "decision": [Decision(int(d)).label for d in self.policy.decide(score)],
            }
        )


def rated(
    model: Detector | Learner, scored: Scored, rows: Ints | npt.NDArray[np.bool_] | slice = _ALL
) -> Floats:
    """Scores of either kind of model, of shape (n,), for some `rows` of a pass with `signals`."""
    if isinstance(model, Learner):
        return model.score(scored.signals[rows], scored.amount[rows], scored.history[rows])
    return model.score(model.weigh(scored.signals[rows])[1])


def listed(source: Store | Session) -> pd.DataFrame:
    """Every registered model, the newest first, with its `kind` and `role`."""
    return source.query(_LISTED)


def roles(source: Store | Session) -> tuple[str, tuple[str, ...]]:
    """Versions of the champion and of the models in shadow.

    Raises
    ------
    NotReady : There is no champion yet.
    """
    rows = source.rows(_LISTED)
    champions = [row["version"] for row in rows if row["role"] == "champion"]
    if not champions:
        where = f" for {source.path}" if isinstance(source, Store) else ""
        raise NotReady(f"No model was trained yet{where}. Run `aegis run train`.")
    return champions[0], tuple(row["version"] for row in rows if row["role"] == "shadow")


def has_champion(source: Store | Session) -> bool:
    """Whether any model was ever promoted."""
    return any(row["role"] == "champion" for row in source.rows(_LISTED))


def champion(store: Store, settings: Settings) -> ModelVersion:
    """The model that was promoted last.

    Raises
    ------
    NotReady : None was trained yet, or its files are gone or broken.
    """
    return load(store, roles(store)[0], settings)


def load(source: Store | Session, version: str, settings: Settings) -> ModelVersion:
    """A registered model from its folder; a relative path counts from `settings.home`.

    Raises
    ------
    InputError : No such model is registered.
    NotReady : Its files are gone, broken or not those that were registered.
    """
    row = registered(source, version)
    folder = settings.home / row["path"]
    kind = KINDS.get(row["kind"])
    if kind is None:
        raise NotReady(f"The model {version} is of an unknown kind, {row['kind']!r}.")
    found = ModelVersion(version, kind.load(folder), Policy.load(folder))
    wanted = "SELECT details FROM audit WHERE action = 'register' AND subject = ?"
    told = [json.loads(entry["details"]).get("files") for entry in source.rows(wanted, [version])]
    if told and told[-1] not in (None, files.folder_checksum(folder)):
        raise NotReady(
            f"The files in {folder} are not those with which {version} was registered. Put them "
            "back from a backup, promote another model, or train one with `aegis run train`."
        )
    return found


def promote(
    store: Store,
    settings: Settings,
    version: str,
    *,
    who: str,
    role: str = "champion",
    require_approval: bool = False,
) -> str:
    """Give a registered model a role; what changed, in a sentence.

    There is one champion, and one shadow of each kind: a new one takes the place of the old.

    Parameters
    ----------
    settings : where the model's files are, which are loaded first.
    require_approval : of the settings; a champion is then replaced by `approvals.approve` alone.

    Raises
    ------
    InputError
        There is no such model or role, the champion would step down without another, or a second
        person has to agree.
    NotReady : The model's files are gone or broken, so that it could not score.
    """
    if role not in ROLES:
        raise InputError(f"{role!r} is no role; there are {', '.join(ROLES)}.")
    if not who.strip():
        raise InputError("Say who promotes the model.")
    with store.changing() as session:
        row = registered(session, version)
        if row["role"] == "champion" and role == "champion":
            return f"{version} is the champion already."
        if role == "champion" and require_approval and has_champion(session):
            raise InputError(
                f"A second person has to agree: `aegis models propose {version}`, then "
                "`aegis models approve` by somebody else."
            )
        if row["role"] == "champion":
            raise InputError(f"{version} is the champion; promote another one first, or roll back.")
        if role != "none":
            _must_load(session, version, settings)
        if role == "shadow":
            session.execute(
                "UPDATE models SET shadow_since = NULL WHERE detector = ?", [row["kind"]]
            )
        _give(session, version, role, who)
    if role == "none":
        return f"{version} steps down."
    place = "the champion" if role == "champion" else "in shadow"
    return f"{version} ({row['kind']}) is {place} now."


def rollback(store: Store, settings: Settings, *, who: str) -> str:
    """Make the model before the present champion the champion again; its version.

    Rolling back twice goes back twice, and never forward. It is for an emergency: one person may do
    it, also where `require_approval` asks for two, since it only returns to a model that was the
    champion before. The audit says who.

    Raises
    ------
    InputError : There is none before, or nobody says who.
    NotReady : The files of the one before are gone or broken; the champion stays.
    """
    if not who.strip():
        raise InputError("Say who rolls back.")
    with store.changing() as session:
        past: list[str] = []
        for row in session.rows(
            "SELECT version, role FROM promotions WHERE role IN ('champion', 'rollback') "
            "ORDER BY promoted_at, rowid"
        ):
            if row["role"] == "champion":
                past.append(row["version"])
            elif past:
                past.pop()
        if len(past) < 2:
            raise InputError("There was no champion before the present one.")
        _must_load(session, past[-2], settings)
        _give(session, past[-2], "rollback", who)
    return past[-2]


def audited(source: Store | Session) -> str:
    """How much of the live traffic is fraud, and how much of that was alerted, from the answers.

    Only alerts and the audit sample are answered; each answer counts for 1 / `inclusion`
    transactions. When it fails: where analysts answer the easy ones first.
    """
    found = source.query(
        f"""
        SELECT v.inclusion, v.decision, l.is_fraud
        FROM verdicts v JOIN ({held_labels()}) l USING (transaction_id)
        WHERE v.inclusion <= 1 AND l.source = '{ANSWERED}' QUALIFY {NO_TRY} ORDER BY v.seq
        """
    )
    fraud, weight = found["is_fraud"].to_numpy(bool), 1 / found["inclusion"].to_numpy(float)
    share = weighted_share(fraud, found["inclusion"])
    if share.value is None or share.low is None or share.high is None:
        return "No alert and no transaction of the audit sample was answered yet."
    n_audit = int((found["inclusion"] < 1).sum())
    told = (
        f"{len(found):,} answers, {n_audit:,} of them of the audit sample, each weighted by the "
        f"chance that it was asked for: {share.value:.2%} of what was answered for is fraud "
        f"({share.low:.2%} to {share.high:.2%} in nine of ten such samples)"
    )
    if not fraud.any():
        return told + "."
    alerted = (found["decision"] != "approve").to_numpy(bool)
    caught = weight[fraud & alerted].sum() / weight[fraud].sum()
    return f"{told}; the alerts hold {caught:.0%} of it."


def register(
    store: Store,
    settings: Settings,
    version: str,
    model: Detector | Learner,
    policy: Policy,
    *,
    role: str,
    who: str,
    **row: Any,
) -> str:
    """Save the files first, then the row that makes them count; the version it got.

    `role` is one of `ROLES`, `row` further columns of the table `models`.
    """
    folder = _fresh(settings.models / version)
    model.save(folder)
    policy.save(folder)
    inside = folder.is_relative_to(settings.home)
    entry = {
        "version": folder.name,
        "detector": next(kind for kind, made in KINDS.items() if type(model) is made),
        "path": str(folder.relative_to(settings.home) if inside else folder),
        "created_at": utc_now(),
        **row,
    }
    with store.changing() as session:
        session.append("models", pd.DataFrame([entry]))
        told = {"data_hash": row.get("data_hash"), "files": files.folder_checksum(folder)}
        audit.record(session, who, "register", folder.name, told)
        if role != "none":
            asked = settings.require_approval
            promote(store, settings, folder.name, who=who, role=role, require_approval=asked)
    return folder.name


def registered(source: Store | Session, version: str) -> dict[str, Any]:
    """A model's row of the register, with its `kind` and `role`."""
    rows = {row["version"]: row for row in source.rows(_LISTED)}
    if version not in rows:
        raise InputError(
            f"There is no model {version!r}; `aegis models` lists them."
            + did_you_mean(version, list(rows))
        )
    return rows[version]


def _must_load(session: Session, version: str, settings: Settings) -> None:
    try:
        load(session, version, settings)
    except NotReady as e:
        raise NotReady(
            f"{version} cannot score, so nothing was changed: {e} Or promote another model; "
            "`aegis models` lists them."
        ) from None


def _give(session: Session, version: str, role: str, who: str) -> None:
    """Write what a model does from now on, or just after the last promotion if that lies ahead.

    The order of these times says who is champion, also where the clock was turned back.
    """
    (last,) = session.rows(
        "SELECT max(promoted_at) + to_microseconds(1) AS at FROM "
        "(SELECT promoted_at FROM models UNION ALL SELECT promoted_at FROM promotions)"
    )
    at = max(utc_now(), last["at"] or datetime.min)
    leads = role in ("champion", "rollback")
    session.execute(
        "UPDATE models SET shadow_since = ?, promoted_at = coalesce(?, promoted_at) "
        "WHERE version = ?",
        [at if role == "shadow" else None, at if leads else None, version],
    )
    entry = {"version": version, "role": role, "who": who, "promoted_at": at}
    session.append("promotions", pd.DataFrame([entry]))
    audit.record(session, who, ROLES.get(role, role), version, {"role": role})


def _fresh(folder: Path) -> Path:
    """`folder`, or the same with a number behind it, newly made."""
    for n in range(1, 1000):
        candidate = folder if n == 1 else folder.with_name(f"{folder.name}-{n}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as e:
            raise NotReady(f"The model cannot be saved in {folder}: {e}.") from e
        return candidate
    raise NotReady(f"There are a thousand models called {folder.name}; clear some away.")
