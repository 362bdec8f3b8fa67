"""What there is to tell: verdicts, runs, drift, the budget and the service, in plain words.

Text from outside, such as the name of a merchant, is text here: one line, no control characters.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegis_core.config import NotifyRule, Settings
from aegis_core.runs.ledger import KILLED, over
from aegis_core.runs.parameters import NOTEBOOKS
from aegis_core.schema import WORTH
from aegis_core.store import Store
from aegis_core.store.endpoint import files_of, find
from aegis_core.store.floods import follows, plain
from aegis_core.store.session import Session
from aegis_core.units.money import worth
from aegis_core.units.words import category_said

MOST: Final = 5_000
"""Events that a look brings at most; the next brings the others. The first one has no limit: what
it finds is old, and what it left would be told as new."""
HEALTH_S: Final = 5.0

_VERDICTS: Final = f"""
    SELECT v.seq, v.transaction_id, v.risk, v.decision, v.reasons, v.cleared, t.customer_id, t.ts,
      t.amount, t.currency, {WORTH} AS worth, t.merchant_id, t.category
    FROM verdicts v JOIN transactions t ON t.seq = v.seq
    WHERE v.seq > ? AND v.seq <= ? AND v.risk >= ? AND v.decision != 'approve'
      AND v.replayed_at IS NULL
    ORDER BY v.seq LIMIT ?
"""
_RUNS: Final = """
    SELECT run_id, notebook, status, started_at, ended_at, error, pid FROM runs
    WHERE status IN ('failed', 'unjudged', 'interrupted', 'waiting', 'running')
      AND run_id NOT IN (SELECT event FROM notifications WHERE rule = ? AND what = 'run')
      AND run_id NOT IN (SELECT retry_of FROM runs WHERE retry_of IS NOT NULL)
    ORDER BY started_at
"""
_DRIFT: Final = """
    SELECT run_id, notebook, day, list(told ORDER BY abs(effect) / high DESC) AS told,
      list(CASE part WHEN '' THEN measure ELSE part || ' evidence' END
        ORDER BY abs(effect) / high DESC) AS measures
    FROM drift JOIN runs USING (run_id)
    WHERE alarm AND status != 'running'
      AND run_id NOT IN (SELECT event FROM notifications WHERE rule = ? AND what = 'drift')
    GROUP BY run_id, notebook, day ORDER BY day, run_id LIMIT ?
"""
_OVER: Final = """
    SELECT * FROM thresholds WHERE review_above > trained_above
      AND model_version || ' ' || day NOT IN (
        SELECT event FROM notifications WHERE rule = ? AND what = 'budget')
    ORDER BY day, model_version LIMIT ?
"""


@dataclass(frozen=True)
class Event:
    """One thing to tell.

    Attributes
    ----------
    event : what it is; the same event is never told twice by a rule.
    dedupe_key : what it is about; told once in `dedupe_hours`.
    bad
        How bad an alert is: risk × amount, risk, whether it was blocked. One that is worse in any
        of these than what was told of its customer is told as well.
    """

    what: str
    event: str
    dedupe_key: str
    title: str
    text: str
    bad: tuple[float, float, bool] = (0.0, 0.0, False)


def look(
    store: Store, settings: Settings, rule: NotifyRule, positions: Mapping[str, str]
) -> tuple[list[Event], dict[str, str]]:
    """What is new for a rule, and the positions to go on from.

    `positions` tell where the last look ended, for each thing that the rule tells. What has none is
    looked at for the first time: of verdicts nothing is told then, of runs and drift all there is.
    """
    events: list[Event] = []
    now: dict[str, str] = {}
    with store.reading() as session:
        if "verdict" in rule.what:
            found, now["verdict"] = _verdicts(session, rule, positions.get("verdict"))
            events += found
        if "drift" in rule.what:
            rows = session.rows(_DRIFT, [rule.name, MOST if "drift" in positions else None])
            events += [_drift(row, settings, rule) for row in rows]
            now["drift"] = "begun"
        if "budget" in rule.what:
            rows = session.rows(_OVER, [rule.name, MOST if "budget" in positions else None])
            events += [_over(row) for row in rows]
            now["budget"] = "begun"
    if "run" in rule.what:
        ended = _ended_badly(store, rule)[: MOST if "run" in positions else None]
        events += [_run(row, settings, rule) for row in ended]
        now["run"] = "begun"
    return events, now


def service_state(store: Store, rule: NotifyRule) -> str:
    """`up`, `down`, or `off` where no service was started or it was ended in order.

    With `rule.health` it is down unless that address answers; else it is down if its process died
    and left its file behind.
    """
    if rule.health:
        try:
            with urllib.request.urlopen(rule.health, timeout=HEALTH_S) as answer:
                return "up" if answer.status == 200 else "down"
        except (OSError, ValueError, http.client.HTTPException):  # such as no HTTP at all
            return "down"
    if find(store.path) is not None:
        return "up"
    return "down" if files_of(store.path)[0].exists() else "off"


def service_event(store: Store, rule: NotifyRule, state: str, at: str) -> Event:
    """What is told when the service went down or came back."""
    where = rule.health or str(store.path)
    if state == "down":
        title = "Aegis: the service is down"
        text = f"The service of {plain(where, 300)} does not answer since {at} UTC."
        text += " Transactions are not scored. Start it with `aegis serve`."
    else:
        title = "Aegis: the service is up again"
        text = f"The service of {plain(where, 300)} answers again since {at} UTC."
    return Event("service", f"{state} {at}", f"{state} {at}", title, text)


def _verdicts(session: Session, rule: NotifyRule, position: str | None) -> tuple[list[Event], str]:
    top: int = session.value("SELECT coalesce(max(seq), -1) FROM verdicts")
    if position is None or int(position) > top:  # an older state of the database was restored
        return [], str(top)
    rows = session.rows(_VERDICTS, [int(position), top, rule.from_risk, MOST])
    return [_verdict(row) for row in rows], str(rows[-1]["seq"] if len(rows) == MOST else top)


def _verdict(row: Mapping[str, Any]) -> Event:
    customer, currency = plain(row["customer_id"]), plain(row["currency"] or "", 8)
    done = {"block": "Blocked", "review": "To review"}[row["decision"]]
    paid = worth(row["amount"], currency or None)
    place = plain(row["merchant_id"]) if row["merchant_id"] else "an unknown merchant"
    kind = f" ({plain(category_said(row['category']))})" if row["category"] else ""
    lines = [
        f"{done}: {paid} of customer {customer} at {place}{kind}, "
        f"{row['ts']:%Y-%m-%d %H:%M:%S} UTC, risk {row['risk']:.6g}.",
        *(f"- {plain(reason['text'], 300)}" for reason in row["reasons"] or []),
        *([plain(row["cleared"], 300)] if row["cleared"] else []),
        f"Transaction {plain(row['transaction_id'], 200)}",
    ]
    title = f"Aegis: {done.lower()}, {paid} of {customer}, risk {row['risk']:.6g}"
    bad = (row["risk"] * row["worth"], row["risk"], row["decision"] == "block")
    return Event("verdict", row["transaction_id"], row["customer_id"], title, "\n".join(lines), bad)


def _ended_badly(store: Store, rule: NotifyRule) -> list[dict[str, Any]]:
    """Runs to tell: those that failed for good, were stopped or were killed.

    Whoever ends in order brings the ledger up to date before it lets go of the lock, so that the
    ledger is asked once more after the lock.
    """
    ended = over(store.rows(_RUNS, [rule.name]), store.path)
    if not ended:
        return []
    rows = [row for row in store.rows(_RUNS, [rule.name]) if row["run_id"] in ended]
    for row in rows:
        if row["status"] in ("waiting", "running") or row["error"] == KILLED:
            row |= {"status": "killed", "error": KILLED, "ended_at": None}
    return rows


def _run(row: Mapping[str, Any], settings: Settings, rule: NotifyRule) -> Event:
    name, status = plain(row["notebook"]), plain(row["status"])
    status = "too little to judge by" if status == "unjudged" else status
    ended = f"{row['ended_at']:%Y-%m-%d %H:%M}" if row["ended_at"] else "an unknown time"
    error = plain(row["error"] or "It left no error.", 600)
    lines = [
        f"The run of {name} from {row['started_at']:%Y-%m-%d %H:%M} UTC ended at {ended}: "
        f"{status}.",
        error,
        *_to_read(settings, rule, row),
    ]
    key = f"{row['notebook']} {status} {error}"
    return Event("run", row["run_id"], key, f"Aegis: {name} {status}", "\n".join(lines))


def _drift(row: Mapping[str, Any], settings: Settings, rule: NotifyRule) -> Event:
    told = [plain(sentence, 800) for sentence in row["told"] if sentence]
    measures = ", ".join(plain(name).replace("_", " ") for name in row["measures"])
    title = f"Aegis: drift on {row['day']:%Y-%m-%d} in {measures}"
    lines = [*told, *_to_read(settings, rule, row)]
    return Event("drift", row["run_id"], f"{row['day']}", title, "\n".join(lines))


def _over(row: Mapping[str, Any]) -> Event:
    version = row["model_version"]
    title = f"Aegis: over the alert budget of {row['alert_budget']:.2%} until {row['day']}"
    text = f"{follows(row)} Model {version}; train anew with `aegis run train`."
    return Event("budget", f"{version} {row['day']}", version, title, text)


def _to_read(settings: Settings, rule: NotifyRule, row: Mapping[str, Any]) -> list[str]:
    """Where the report of a run is read, or else its executed notebook; nothing without either."""
    notebook: Path | None = NOTEBOOKS.get(row["notebook"])
    files = {"Report": "report.html"} | ({"Executed notebook": notebook.name} if notebook else {})
    for what, file in files.items():
        path: Path = settings.reports / row["run_id"] / file
        if path.exists():
            where = f"{rule.link.rstrip('/')}/{row['run_id']}/{file}" if rule.link else path
            return [f"{what}: {where}"]
    return []
