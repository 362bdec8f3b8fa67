"""Profiles, model and policy joined in one pass: `Scorer`.

The loop in `_advance` is the only one that moves transactions through the state: training asks it
for signals, evaluation and live scoring for decisions. Each row is decided before it is learnt, so
the result does not depend on how a stream is cut into batches.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.detector import Detector
from aegis_core.detection.forest import N_FACTORS, N_SIGNALS, N_TOLD, NO_MODEL, Model, room, weigh
from aegis_core.detection.learner import Learner
from aegis_core.detection.policy import Policy, inclusion
from aegis_core.detection.reasons import clearance, counted, paid, reasons
from aegis_core.detection.trees import N_FEATURES, NO_TREES, Trees, rate, without
from aegis_core.detection.verdicts import Reasons, Verdicts
from aegis_core.features.arrays import Floats, Ints, Rows
from aegis_core.features.checkpoint import NO_ONE, NO_PAUSES, Erased, Pauses
from aegis_core.features.confirmed import Confirmed
from aegis_core.features.entities import N_COUNTS, NO_KEYS, Sharing, count_cards, remember_try
from aegis_core.features.entries import Columns, Entry, by_scale, entry_of
from aegis_core.features.frauds import N_HISTORY, Recall, fold, recall, witness
from aegis_core.features.kernels import kernel
from aegis_core.features.population import NOWHERE, ends_day, place_of, publish
from aegis_core.features.profiles import Profiles
from aegis_core.features.signals import (
    FACTS,
    LIVED,
    N_WINDOWS,
    RING,
    ZONED,
    State,
    learn,
    observe,
)
from aegis_core.machine import utc_now_us
from aegis_core.schema import LIST_KINDS, TOLD_FACTORS, Decision
from aegis_core.units.words import ASIDE, PAYMENT

CHUNK_ROWS = 200_000
"""Rows taken through the pass at once; bounds memory, changes no result."""
UNDECIDED = -1
"""In an array of recorded decisions: this transaction never got a verdict."""
DECIDED_NOW = -2
"""In an array of recorded decisions: what the model says in this very pass."""
DENIED, ALLOWED, SNOOZED = (1 + LIST_KINDS.index(k) for k in ("deny", "allow", "snooze"))
"""In an array of rulings: what a list says of a transaction; 0 is nothing."""
N_CLEARED: Final = 1 + N_TOLD
"""Columns of `Scored.cleared`."""
_BURST: Final = 1 + TOLD_FACTORS.index("burst")

Decisions = npt.NDArray[np.int8]
Counts = npt.NDArray[np.int8]
NOTHING_CONFIRMED: Final = Confirmed().memory
NOBODY: Final = np.empty(0, np.int64)
NO_ROWS: Final = Columns._make(NOBODY for _ in Columns._fields)
_AMOUNTS: Final = 48
_BISECTIONS: Final = 30


class Scored(NamedTuple):
    """What the pass says of n transactions, in their order.

    `amount` (n,) is in the base currency, NaN where it is not known what one is worth. `signals`
    (n, N_SIGNALS) and `strength`, `evidence` (n, N_FACTORS) are in nats; `contributions`
    (n, N_TOLD) in units of the score; `score` (n,) in (0, 1), `risk` (n,) in [0, 100]; `decision`
    (n,) as in `schema.Decision`; `facts` (n, len(FACTS)); `history` (n, N_HISTORY), where the pass
    was given answers. `cleared` (n, N_CLEARED) tells for alerts what would have made a score that
    passes: the largest such amount, or NaN, then 1 for each of `TOLD_FACTORS` whose absence alone
    would have done. `counts` (n, N_COUNTS) are those of `observe` and `count_cards`. Arrays that
    were not asked for have no rows.
    """

    signals: Floats
    strength: Floats
    evidence: Floats
    score: Floats
    risk: Floats
    decision: Decisions
    contributions: Floats
    history: Floats
    facts: Floats
    counts: Counts
    cleared: Floats
    amount: Floats


@kernel
def _advance(
    state: State,
    shared: Sharing,
    columns: Columns,
    entities: Ints,
    cards: Ints,
    model: Model,
    trees: Trees,
    review_above: float,
    block_above: float,
    limits: Ints,
    scoring: bool,
    recorded: Decisions,
    rulings: Decisions,
    memory: Recall,
    clock: Ints,
    payer: Ints,
    payee: Ints,
    out: Scored,
) -> None:
    """Observe, decide and learn row after row; arrays of `out` without rows are not filled."""
    # taken apart here: what is taken from a tuple within the loop is counted for each row
    customers, pair_keys, pairs, sums, kept, published, day, scales, places = state
    customer, category, ts_us, as_paid, rates, scale, units, offset, lat, lon, role, clocks = (
        columns
    )
    (signals, strength, all_evidence, scores, _, decisions, _, history, facts, counts, cleared,
     amounts) = out  # fmt: skip
    nothing, one_row, no_past = np.empty(0), np.empty(N_SIGNALS), np.zeros(N_HISTORY)
    left, features = room(model), np.empty(N_FEATURES, np.float32)
    recent, raw = np.ones(N_COUNTS, np.int64), np.empty(N_WINDOWS, np.int64)
    own_counts, walked = recent[:N_WINDOWS], np.empty((3, RING), np.int64)
    shares, (keys, tables, tries, numbers) = len(entities) > 0, shared
    for i in range(len(as_paid)):
        ts = ts_us[i]
        past = no_past
        if len(history) > 0:
            past = history[i]
            fold(memory, clock[i])
            past[:] = 0.0
        if ends_day(day, ts):
            publish(sums, kept, published, scales, places)
        if customer[i] < 0:  # the place of one that was erased
            continue
        if len(history) > 0 and role[i] == PAYMENT:
            recall(memory, payer[i], payee[i], ts, past)
            witness(memory, payer[i], payee[i], ts)
        row = signals[i] if len(signals) > 0 else one_row
        told = facts[i] if len(facts) > 0 else nothing
        own, amount = customers[customer[i]], as_paid[i] * rates[i]
        if math.isnan(amount):
            amount = by_scale(as_paid[i], scales[scale[i]], published[0])
        place = place_of(lat[i], lon[i])
        entry = entry_of(
            customer[i], category[i], scale[i], ts, as_paid[i], amount, offset[i], lat[i], lon[i],
            place, place >= 0 and places[place, NOWHERE] > 0, role[i], clocks[i], own[ZONED],
            own[LIVED],
        )  # fmt: skip
        amounts[i] = amount
        observe(own, published, pair_keys, pairs, places, entry, amount, row, told, own_counts, raw)
        tried = role[i] if entry.timed else ASIDE
        if shares:
            count_cards(keys, tables, tries, numbers, entities[i], customer[i], cards[i], ts, tried,
                        walked, recent)  # fmt: skip
        if len(counts) > 0:
            for k in range(N_COUNTS):
                counts[i, k] = recent[k]
        fate: int = UNDECIDED
        if scoring:
            evidence = all_evidence[i]
            weigh(model, row, strength[i], evidence, nothing)
            score = rate(model, trees, row, amount, past, evidence, left, features)
            alert = score > review_above
            fate = alert + (score > block_above)
            if _reaches(recent, limits[0], shares):
                soon = _reaches(recent, limits[1], shares)
                fate = max(fate, Decision.BLOCK.value if soon else Decision.REVIEW.value)
            if len(rulings) > 0:
                fate = _ruled(fate, rulings[i])
            if role[i] == ASIDE:  # nobody paid, so that there is nothing to judge
                score, fate, alert = 0.0, Decision.APPROVE.value, False
            scores[i] = score
            decisions[i] = fate
            if alert and len(cleared) > 0:
                _clear(own, published, pair_keys, pairs, places, entry, as_paid[i], units[i], model,
                       trees, review_above, row, past, cleared[i])  # fmt: skip
        if len(recorded) > 0 and recorded[i] != DECIDED_NOW:
            fate = recorded[i]
        learn(own, published, pair_keys, pairs, sums, scales, places, entry, row, raw,
              fate != Decision.BLOCK, fate == Decision.REVIEW)  # fmt: skip
        if shares:
            remember_try(keys, tables, tries, numbers, entities[i], customer[i], cards[i], ts,
                         tried, fate != Decision.BLOCK)  # fmt: skip


@kernel
def _reaches(counts: Ints, limits: Ints, shares: bool) -> bool:
    """Whether a count of the customer, or of an entity where one `shares` some, is at its limit."""
    met = False
    for k in range(N_COUNTS if shares else N_WINDOWS):
        met |= counts[k] >= limits[k]
    return met


@kernel
def _ruled(decision: int, ruling: int) -> int:
    """The decision after the lists had their say."""
    if ruling == DENIED:
        return Decision.BLOCK.value
    if ruling == ALLOWED or (ruling == SNOOZED and decision == Decision.REVIEW):
        return Decision.APPROVE.value
    return decision


@kernel
def _clear(
    own: Floats,
    published: Floats,
    pair_keys: Ints,
    pairs: Floats,
    places: Ints,
    entry: Entry,
    amount: float,
    units: float,
    model: Model,
    trees: Trees,
    review_above: float,
    signals: Floats,
    past: Floats,
    out: Floats,
) -> None:
    """Write what would have let a transaction pass, shape (N_CLEARED,); see `Scored`.

    Each answer was scored: the amount is the end of the range, from the smallest amount of the
    currency upwards, in which every amount tried passes, in whole ones of these.
    """
    strength, evidence = np.empty(N_FACTORS), np.empty(N_FACTORS)
    left, features, nothing = room(model), np.empty(N_FEATURES, np.float32), np.empty(0)
    row, kept, spare = np.empty(N_SIGNALS), np.ones(N_TOLD), np.empty(N_HISTORY)
    uncounted = np.empty(0, np.int64)
    for f in range(N_TOLD):
        kept[f] = 0.0
        money = without(trees, kept, signals, entry.amount, past, row, spare)
        kept[f] = 1.0
        weigh(model, row, strength, evidence, nothing)
        score = rate(model, trees, row, money, spare, evidence, left, features)
        out[1 + f] = score <= review_above
    out[0] = math.nan
    if math.isnan(entry.amount) or amount <= 0.0:
        return
    worth = entry.amount / amount
    passes, fails, tried = 0.0, amount, 1.0 / units
    step = math.pow(max(amount * units, 2.0), 1 / _AMOUNTS)
    for k in range(_AMOUNTS + _BISECTIONS):
        if k < _AMOUNTS:
            tried = math.floor(math.pow(step, k)) / units  # from the smallest amount upwards
        elif passes == 0.0:
            break
        else:
            tried = math.floor((passes + fails) * units / 2 + 1e-6) / units
        if tried <= passes or tried >= fails:
            continue
        observe(own, published, pair_keys, pairs, places, entry, tried * worth, row, nothing,
                uncounted, uncounted)  # fmt: skip
        weigh(model, row, strength, evidence, nothing)
        if rate(model, trees, row, tried * worth, past, evidence, left, features) > review_above:
            fails = tried
        else:
            passes = tried
    out[0] = passes if passes > 0 else math.nan


class Scorer:
    """The pass over transactions, with or without a model.

    Parameters
    ----------
    model, policy : both, to decide; neither, to learn profiles and signals only.
    profiles : the state to go on from; fresh if not given.
    confirmed :
        The frauds confirmed so far and the labels still to become known. Without it the pass does
        not look at merchants; a `Learner` always has one, be it empty.
    """

    def __init__(
        self,
        model: Detector | Learner | None = None,
        policy: Policy | None = None,
        profiles: Profiles | None = None,
        confirmed: Confirmed | None = None,
    ) -> None:
        if (model is None) != (policy is None):
            raise ValueError("A scorer decides with a model and a policy, or with neither.")
        self.model, self.policy = model, policy
        self.learner = model if isinstance(model, Learner) else None
        self.detector = model.detector if isinstance(model, Learner) else model
        self.profiles = profiles if profiles is not None else Profiles()
        learns = self.learner is not None
        self.confirmed = Confirmed() if confirmed is None and learns else confirmed

    def run(
        self,
        frame: Rows,
        *,
        recorded: Decisions | None = None,
        rulings: Decisions | None = None,
        signals: bool = False,
        explain: bool = False,
        clock: Ints | None = None,
        pauses: Pauses = NO_PAUSES,
        progress: Callable[[int], object] | None = None,
    ) -> Scored:
        """Take `frame` through the pass, in its order, and remember it.

        Parameters
        ----------
        frame :
            Transactions in order of arrival (`schema.TRANSACTION_COLUMNS`), checked at the door.
        recorded :
            Decisions that were answered when the transactions came, of shape (n,); they, and not
            today's, say what taught the profiles. `UNDECIDED` where there was none, `DECIDED_NOW`
            where this pass gives them.
        rulings :
            What lists say, of shape (n,): 0, `DENIED`, `ALLOWED` or `SNOOZED`. The first two
            decide whatever the score, the last lets pass what would have gone to review.
        signals, explain : also return signals; contributions, facts and what would have cleared.
        clock : what labels become known by, of shape (n,); None: the times of the transactions.
        pauses : what is done to the state in between.
        progress : called with the number of rows done since the last call.
        """
        n = len(frame["customer_id"])
        for given, what in ((recorded, "recorded decisions"), (rulings, "rulings")):
            if given is not None and len(given) != n:
                raise ValueError(f"{len(given)} {what} for {n} transactions.")
        decides = self.detector is not None
        explained = n if explain and decides else 0
        out = Scored(  # of an erased row it stays 0, which every model can be asked about
            np.zeros((n if signals or (explained and self.learner) else 0, N_SIGNALS)),
            np.zeros((n if decides else 0, N_FACTORS)),
            np.zeros((n if decides else 0, N_FACTORS)),
            np.zeros(n if decides else 0),
            np.zeros(0),
            np.zeros(n if decides else 0, np.int8),
            np.zeros((explained, N_TOLD)),
            np.zeros((n if self.confirmed is not None else 0, N_HISTORY)),
            np.zeros((n if explain else 0, len(FACTS))),
            np.zeros((n if signals or explain else 0, N_COUNTS), np.int8),
            np.full((explained, N_CLEARED), np.nan),
            np.zeros(n),
        )
        thresholds, model, trees = (np.inf, np.inf), NO_MODEL, NO_TREES
        limits = np.full((2, N_COUNTS), RING + 2)
        if self.detector is not None and self.policy is not None:
            thresholds = self.policy.review_above, self.policy.block_above
            limits = self.policy.limits
            model = self.detector.model_
            trees = NO_TREES if self.learner is None else self.learner.trees_
        asked, ruled = (
            np.empty(0, np.int8) if given is None else given.astype(np.int8)
            for given in (recorded, rulings)
        )
        step = CHUNK_ROWS if isinstance(frame, pd.DataFrame) else max(n, 1)
        first = until = 0
        chunk, keys, payers, payees = NO_ROWS, NO_KEYS, NOBODY, NOBODY
        for start, stop in pairwise(sorted({*range(0, n, step), *(k for k in pauses if k < n), n})):
            renamed = [act() for act in pauses.get(start, ())]
            if start == until or any(renamed):
                first, until = start, min((start // step + 1) * step, n)
                here = frame.iloc[first:until] if isinstance(frame, pd.DataFrame) else frame
                chunk = self.profiles.columns(here)
                keys = self.profiles.keys(here, chunk)
                if self.confirmed is not None:
                    payers, payees = self.confirmed.codes(here)
            part, of = slice(start, stop), slice(start - first, stop - first)
            columns, filled = chunk, out
            if (start, stop) != (0, n):
                columns = Columns._make(column[of] for column in chunk)
                filled = Scored._make(array[part] for array in out)
            payer, payee = payers[of], payees[of]
            _advance(
                self.profiles.state, self.profiles.shared, columns, keys.of[of], keys.card[of],
                model, trees, *thresholds, limits, decides,
                asked[part], ruled[part],
                NOTHING_CONFIRMED if self.confirmed is None else self.confirmed.memory,
                columns.ts_us if clock is None else clock[part], payer, payee, filled,
            )  # fmt: skip
            if explained and self.learner is not None:
                out.contributions[part] = self.learner.contributions(
                    out.signals[part], out.amount[part], out.history[part]
                )
            elif explained and self.detector is not None:
                out.contributions[part, :N_FACTORS] = self.detector.contributions(
                    out.evidence[part], out.score[part]
                )
            if progress is not None:
                progress(part.stop - part.start)
        for act in pauses.get(n, ()):
            act()
        if self.model is not None:
            out = out._replace(risk=self.model.risk(out.score))
        return out

    def replay(
        self,
        frame: pd.DataFrame,
        labels: pd.DataFrame | None = None,
        *,
        recorded: Decisions | None = None,
        rulings: Decisions | None = None,
        erased: Erased = NO_ONE,
        watch: Callable[[pd.DataFrame], Pauses] | None = None,
        signals: bool = False,
        explain: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Scored:
        """`run` over a history in whose course answers came in.

        Parameters
        ----------
        labels :
            What `Confirmed.add_labels` takes, in order of arrival, with `after_seq`: the last
            transaction that had arrived before. Each is taken just there.
        erased : what stays of customers who were erased, from the first of `frame` on.
        watch :
            Given the rows of the pass, with the places of what was erased, before it begins:
            what else is done in between.
        """
        rows = erased.with_places(frame)
        there = np.ones(len(rows), bool)
        if len(rows) > len(frame):
            there = rows["customer_id"].notna().to_numpy(bool)
            given, recorded = recorded, np.full(len(rows), UNDECIDED, np.int8)
            recorded[there] = UNDECIDED if given is None else given
            if rulings is not None:
                given, rulings = rulings, np.zeros(len(rows), np.int8)
                rulings[there] = given
        seq = rows["seq"].to_numpy(np.int64)
        with contextlib.ExitStack() as passing:
            clock = times = rows["ts"].to_numpy("datetime64[us]").astype(np.int64)
            if labels is not None and self.confirmed is not None:
                places = seq.searchsorted(labels["after_seq"].to_numpy(), side="right")
                arrived = np.maximum.accumulate(places) if len(places) else places
                arriving = self.confirmed.arriving(labels.assign(row=arrived), times)
                clock = passing.enter_context(arriving)
            pauses = defaultdict[int, list[Callable[[], object]]](list)
            for more in (
                erased.pauses(seq, clock, self.profiles, self.confirmed),
                watch(rows) if watch else NO_PAUSES,
            ):
                for row, acts in more.items():
                    pauses[row] += acts
            out = self.run(
                rows, recorded=recorded, rulings=rulings, signals=signals, explain=explain,
                clock=clock, pauses=pauses, progress=progress,
            )  # fmt: skip
        if there.all():
            return out
        return Scored._make(part[there] if len(part) == len(there) else part for part in out)

    def verdicts_of(
        self,
        frame: Rows,
        scored: Scored,
        model_version: str,
        listed: Mapping[int, tuple[str, str]] | None = None,
        again: Mapping[int, str] | None = None,
    ) -> Verdicts:
        """What `run` said of `frame` with `signals` and `explain`.

        Reasons, and what would have cleared it, are told for alerts; evidence and contributions
        are kept for all. What goes to review only as a part of the audit sample has neither.

        Parameters
        ----------
        listed :
            For each row that a list speaks of, by its number in `frame`: the entry's id and a
            sentence, told where it changed the decision.
        again : sentences about rows that probably repeat an earlier payment, told with an alert.
        """
        if self.detector is None or self.policy is None:
            raise ValueError("Verdicts need a model.")
        listed = listed or {}
        told: dict[int, Reasons] = {}
        cleared: dict[int, str] = {}
        high = scored.score > self.policy.review_above
        burst = self.policy.counts_as_burst(scored.counts)
        alerts = np.flatnonzero(high | burst)
        if len(alerts):
            was_paid = paid(frame, scored.amount, alerts)
            by_signal = self.detector.spread(scored.signals[alerts])
        limits = self.policy.limits
        cards = np.asarray(frame.get("card_id", np.full(len(high), None)), object)
        for k, i in enumerate(alerts.tolist()):
            told[i] = reasons(
                was_paid[k], scored.facts[i], scored.contributions[i], by_signal[k],
                scored.history[i] if len(scored.history) else None,
            )  # fmt: skip
            ways = scored.cleared[i]
            if burst[i]:  # no other amount, place or hour takes anything from the count
                card = isinstance(cards[i], str)
                told[i] = [counted(scored.counts[i], limits, card=card), *told[i]]
                ways, alone = np.zeros(N_CLEARED), ways[_BURST] if high[i] else 1.0
                ways[0], ways[_BURST] = np.nan, alone
            cleared[i] = clearance(was_paid[k].currency, ways)
            if again and i in again:
                told[i] = [*told[i], {"factor": "burst", "code": "AGAIN", "text": again[i],
                                      "contribution": 0.0}]  # fmt: skip
        entries: dict[int, str] = {}
        alone = self.policy.decide(scored.score, scored.counts) if listed else scored.decision
        for i, (entry_id, sentence) in listed.items():
            if alone[i] == scored.decision[i]:
                continue
            entries[i] = entry_id
            reason = {"factor": "list", "code": "LIST", "text": sentence, "contribution": 0.0}
            told[i] = [reason, *told.get(i, ())]
        ids = np.empty(len(scored.score), object)
        ids[:] = frame["transaction_id"]
        return Verdicts(
            np.asarray(frame["seq"]), ids.tolist(), model_version, scored.score, scored.risk,
            scored.decision, told, scored.contributions, scored.evidence,
            scored.facts[:, FACTS.index("distance_km")], utc_now_us(), cleared,
            inclusion(scored.decision, ids, self.policy.audit_share), entries,
        )  # fmt: skip
