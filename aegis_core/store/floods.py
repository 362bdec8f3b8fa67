"""What many alerts share: campaigns among them, and a storm when there are far too many.

A **campaign** is at least `ALIKE` alerts with one card, at one device, of one e-mail, from one
address or at one merchant, no more than `GAP_MINUTES` from one to the next; where there are more
than can be told, also of one first reason. A **storm** is an hour
with several times the alerts that the champion's budget forecasts for the transactions that a
minute usually brings. Where days are over the budget, the threshold **follows** them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aegis_core.schema import ENTITIES, LONGEST_TEXT, WORTH, WORTH_IN
from aegis_core.store.session import Session
from aegis_core.units.words import category_said

ALIKE: Final = 5
GAP_MINUTES: Final = 10
STORM_MINUTES: Final = 60
MOST_CAMPAIGNS: Final = 50
LEAST: Final = 20
"""Fewer alerts than these within an hour are no storm, whatever was forecast."""
Alert = Mapping[str, Any]
"""With `weight`, `schema.ENTITIES`, `code` (of the first reason) and `scored_at`, among others."""
SHARED: Final = {
    "card_id": "with card {}", "device_id": "at device {}", "email": "of e-mail {}",
    "ip": "from {}", "merchant_id": "at {}",
}  # fmt: skip
"""What alerts may share, in the order of `schema.ENTITIES`, and how that is said."""

_COUNTED: Final = f"""
    SELECT coalesce(sum(n) FILTER (now_ AND decision != 'approve'), 0)::BIGINT AS alerts,
      coalesce(sum(n) FILTER (now_), 0)::BIGINT AS here,
      count(DISTINCT minute) FILTER (now_) AS minutes,
      coalesce(sum(n) FILTER (NOT now_), 0)::BIGINT AS before,
      count(DISTINCT minute) FILTER (NOT now_) AS earlier,
      min(first_seq) FILTER (now_) AS low, max(last_seq) FILTER (now_) AS high,
      (SELECT parameters FROM models WHERE promoted_at IS NOT NULL
       ORDER BY promoted_at DESC LIMIT 1) AS parameters
    FROM (SELECT *, minute > $now - INTERVAL {STORM_MINUTES} MINUTE AS now_ FROM rollups
          WHERE minute > $now - INTERVAL 1 DAY AND minute <= $now)"""
_WORDS: Final = SHARED | {
    "merchant_id": "at merchant {}", "category": "in category {}",
    "customer_id": "of customer {}", "factor": "for {} first",
}  # fmt: skip
"""What most alerts of a storm may share."""
_SAID: Final = [*(words.removesuffix("{}") for words in SHARED.values()), "for "]
_SHARED: Final = """
    WITH alerts AS MATERIALIZED (
      SELECT t.*, v.reasons[1].factor AS factor FROM verdicts v JOIN transactions t ON t.seq = v.seq
      WHERE v.seq BETWEEN $low AND $high AND t.seq BETWEEN $low AND $high
        AND v.decision != 'approve' AND v.scored_at >= $since)
    """ + " UNION ALL ".join(
    f"""SELECT '{words}' AS words, {name} AS value, count(*) / sum(count(*)) OVER () AS share
    FROM alerts GROUP BY value QUALIFY share >= 0.5 AND value IS NOT NULL"""
    for name, words in _WORDS.items()
)


def waves(rows: str) -> str:
    """Queries to stand in a WITH, of which `named` says what each row is a campaign by.

    `rows` gives what may be alike: `id`, `customer_id`, `since` (a time), `schema.ENTITIES` and
    `code`, the first reason or null. A campaign is of at least `ALIKE` customers. `named` has for
    each row of one `id`, `shared` (what they have in common, in words), and `kind`, `value` and
    `wave`, which are those of one campaign; where a row is of several, the most telling.
    """
    kinds = ", ".join(ENTITIES)
    alike = "PARTITION BY kind, value"
    return f"""
    things AS (
      SELECT id, customer_id, since, unnest(range({len(_SAID)})) AS kind,
        unnest([{kinds}, code]) AS value FROM ({rows})),
    begun AS (
      SELECT *, coalesce(since - lag(since) OVER alike > INTERVAL {GAP_MINUTES} MINUTE, true)
        AS begins
      FROM things WHERE value IS NOT NULL WINDOW alike AS ({alike} ORDER BY since, id)),
    waves AS (
      SELECT *, sum(begins::INT) OVER ({alike} ORDER BY since, id) AS wave FROM begun),
    many AS (
      SELECT * FROM waves WINDOW alike AS ({alike}, wave)
      QUALIFY count(DISTINCT customer_id) OVER alike >= {ALIKE}),
    named AS (
      SELECT id, kind, value, wave, {_SAID}[1 + kind] || value AS shared FROM many
      QUALIFY row_number() OVER (PARTITION BY id ORDER BY kind) = 1)"""


CAMPAIGNS: Final = f"""
    WITH alerts AS MATERIALIZED (
      SELECT v.seq, v.scored_at, v.decision, v.risk, v.reasons[1].text AS why, t.customer_id,
             {", ".join(f"left(t.{name}, {LONGEST_TEXT}) AS {name}" for name in ENTITIES)},
             coalesce(t.status, 'approved') AS status, {WORTH} AS worth, {WORTH_IN} AS unit
      {{0}} AND v.decision <> 'approve'),
    {waves("SELECT *, seq AS id, scored_at AS since, NULL AS code FROM alerts")}
    SELECT max(seq) AS seq, {list(ENTITIES)}[1 + kind] AS by, value, any_value(shared) AS shared,
           count(*) AS alerts, count(DISTINCT customer_id) AS customers,
           count(*) FILTER (decision = 'block') AS blocked,
           count(*) FILTER (status = 'declined') AS declined,
           sum(worth)::DOUBLE AS amount, any_value(unit) AS unit, count(DISTINCT unit) AS units,
           epoch(min(scored_at)) AS first, epoch(max(scored_at)) AS last, max(risk) AS risk,
           left(arg_max(why, seq), 1000) AS why
    FROM alerts JOIN named ON id = seq GROUP BY kind, value, wave
    ORDER BY last DESC, seq DESC LIMIT {MOST_CAMPAIGNS}"""
"""What alerts share, the newest first: by what (`by`, `value`; in words `shared`), how many, of how
many customers, how many of them blocked and how many tries declined; amounts in one unit or in
several (`units`); when the first and the last was scored (seconds since 1970); `seq` is that of the
newest, which no other has. Its place is for the verdicts that are looked at, `v` and `t`."""


def plain(value: object, most: int = 80) -> str:
    r"""Text from outside as one line without control characters, shortened.

    >>> plain("shop\r\nBcc: all@example.org \u202egnp.exe"), plain(None), plain("x" * 99, 4)
    ('shop  Bcc: all@example.org gnp.exe', 'unknown', 'xxx…')
    """
    text = "unknown" if value is None else str(value)
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Storm:
    """Too many alerts within `STORM_MINUTES`: how many, how many were forecast, what they share.

    `shared` has sentences' ends, such as "95 % at merchant m7", of what at least half of them have.
    """

    n: int
    forecast: float
    shared: tuple[str, ...] = ()

    def told(self) -> str:
        """It in one sentence.

        >>> Storm(600, 11.6, ("95 % at merchant m7",)).told()
        'Storm: 600 alerts within the hour, where 12 were forecast; 95 % at merchant m7.'
        """
        shared = ", ".join(self.shared) or "they share no merchant, category, customer or reason"
        return (
            f"Storm: {self.n:,} alerts within the hour, where {self.forecast:,.0f} were forecast; "
            f"{shared}."
        )


def storm(session: Session, multiple: float, now: dt.datetime) -> Storm | None:
    """The storm at `now` (UTC, naive), None in ordinary weather or where no budget is known.

    `multiple` is how many times the forecast makes one. Without earlier minutes of the day the
    forecast is of the transactions of the hour itself.
    """
    row = {name: values[0] for name, values in session.numpy(_COUNTED, {"now": now}).items()}
    if (n := int(row["alerts"])) < LEAST:
        return None
    try:
        budget = float(json.loads(row["parameters"])["alert_budget"])
    except (ValueError, KeyError, TypeError):
        return None
    a_minute = row["before"] / row["earlier"] if row["earlier"] else row["here"] / row["minutes"]
    forecast = float(budget * a_minute * row["minutes"])
    if n <= multiple * forecast:
        return None
    since = now - dt.timedelta(minutes=STORM_MINUTES)
    span = {"low": int(row["low"]), "high": int(row["high"]), "since": since}
    found = session.numpy(_SHARED, span)
    shared = sorted(zip(-found["share"], found["words"], found["value"], strict=True))
    told = []
    for share, words, value in shared:
        name = category_said(value) if words == _WORDS["category"] else value
        told.append(f"{-share:.0%} {words.format(plain(name))}")
    return Storm(n, forecast, tuple(told))


def campaigns(alerts: Iterable[Alert], *, by_reason: bool) -> list[list[Alert]]:
    """The alerts in groups, each a campaign or a single alert, the worst first in each and of all.

    The group with the worst alert leads; the others follow by the sum of what is at stake in them.
    """
    groups: list[list[Alert]] = []
    rest = list(alerts)
    for name in (*ENTITIES, "code") if by_reason else ENTITIES:
        found = _waves(rest, name)
        groups += [wave for wave in found if len(wave) >= ALIKE]
        rest = [alert for wave in found if len(wave) < ALIKE for alert in wave]
    groups += [[alert] for alert in rest]
    made = [sorted(group, key=worst_first) for group in groups]
    made.sort(key=lambda group: (-sum(a["weight"] for a in group), worst_first(group[0])))
    if made:
        lead = min(made, key=lambda group: worst_first(group[0]))
        made = [lead, *(group for group in made if group is not lead)]
    return made


def shared(group: Sequence[Alert]) -> str:
    """What the alerts of a campaign have in common, in words.

    >>> alert = dict.fromkeys(ENTITIES) | {"merchant_id": "shop-7"}
    >>> shared([alert, alert]), shared([alert | {"ip": "203.0.113.9"}] * 2)
    ('at shop-7', 'from 203.0.113.9')
    >>> shared([alert, alert | {"merchant_id": "shop-8"}])
    'for one reason'
    """
    for name, words in SHARED.items():
        (value, *others) = {alert[name] for alert in group}
        if value is not None and not others:
            return words.format(plain(value))
    return "for one reason"


def worst_first(alert: Alert) -> tuple[float, float, str]:
    """A key that sorts alerts by risk × amount, the largest first."""
    return -alert["weight"], -alert["risk"], alert["event"]


def _waves(alerts: Sequence[Alert], name: str) -> list[list[Alert]]:
    """Alerts of one value each, without a long pause; those without a value each for itself."""
    known = [alert for alert in alerts if alert[name] is not None]
    waves = [[alert] for alert in alerts if alert[name] is None]
    known.sort(key=lambda alert: (str(alert[name]), alert["scored_at"]))
    gap = dt.timedelta(minutes=GAP_MINUTES)
    for _, group in itertools.groupby(known, lambda alert: str(alert[name])):
        last: list[Alert] = []
        for alert in group:
            if not last or alert["scored_at"] - last[-1]["scored_at"] > gap:
                last = []
                waves.append(last)
            last.append(alert)
    return waves


THRESHOLD: Final = """
    SELECT * FROM thresholds WHERE model_version = (
      SELECT version FROM models WHERE promoted_at IS NOT NULL ORDER BY promoted_at DESC LIMIT 1)
    ORDER BY day DESC LIMIT 1"""
"""A query: what the champion's threshold follows, if anything was looked at yet."""


def follows(row: Mapping[str, Any]) -> str:
    """A row of `thresholds` in words; "" where the trained threshold keeps the budget.

    >>> print(follows({"alerts": 900, "transactions": 60_000, "alert_budget": 0.005,
    ...                "days": 7, "review_above": 0.71, "trained_above": 0.66}))
    Over budget: as trained, the model would have raised 900 alerts of 60,000 transactions in 7 \
days, 3.0 times its 0.50%, five of a customer counted at most. Its threshold \
follows: 0.7100 instead of 0.6600.
    """
    if row["review_above"] == row["trained_above"]:
        return ""
    times = row["alerts"] / (row["transactions"] * row["alert_budget"])
    return (
        f"{'Over' if times > 1 else 'Below'} budget: as trained, the model would have raised "
        f"{row['alerts']:,} alerts of {row['transactions']:,} transactions in {row['days']} days, "
        f"{times:.1f} times its {row['alert_budget']:.2%}, five of a customer counted at most. "
        "Its threshold follows: "
        f"{row['review_above']:.4f} instead of {row['trained_above']:.4f}."
    )
