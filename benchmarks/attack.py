"""What was tried against Aegis: held or broken.

What one sender, or a window full of attacks, can do to others is tried against a model of 30 days
of synthetic traffic (1,500 customers), and says what was asked and what was found: about a minute.
Then come the tries that tests hold (`HELD_BY`, and every test marked `attack`), some minutes more.
Ends with 1 where one is broken, with 2 where a name here is no test's.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection import attacks
from aegis_core.detection.counter import Counter, burst_limits
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scored, Scorer
from aegis_core.features.profiles import Profiles
from aegis_core.intake.synthetic import SyntheticConfig, generate
from aegis_core.schema import Decision

CONFIG: Final = SyntheticConfig(n_transactions=165_000, n_customers=1_500, n_merchants=600, days=60)
DAY = pd.Timedelta(days=1)
RETRAININGS, STEP = 10, 3
TESTS: Final = Path(__file__).parents[1] / "tests"
HELD_BY: Final = {
    # one sender
    "a sender's least and largest amounts move nobody's alert": (
        "detection/test_one_sender.py::test_one_row_in_a_hundred_moves_nobody_elses_alert",
        "serving/test_guards.py::test_there_is_a_least_amount",
    ),
    "retraining on a window of bursts": (
        "detection/test_one_sender.py::test_a_window_s_own_bursts_do_not_become_its_normal",
        "detection/test_policy.py::test_bursts_of_three_in_a_hundred_customers_do_not_move_the_limits",
        "detection/test_attacks.py::test_a_training_that_would_lose_an_attack_scores_in_shadow_and_says_why",
    ),
    "an identifier as category": (
        "features/test_profiles.py::test_an_identifier_as_category_fills_no_memory_and_stops_nothing",
        "serving/test_guards.py::"
        "test_what_makes_scoring_fail_makes_health_503_with_the_reason_and_changes_nothing",
    ),
    "times ahead between the payments of a burst": (
        "features/test_profiles.py::test_a_time_among_a_burst_that_is_none_of_it_hides_nothing",
        "serving/test_guards.py::test_a_time_ahead_of_the_clock_is_refused_at_both_live_doors",
    ),
    "one payment 23.9 hours ahead": (
        "features/test_profiles.py::test_a_time_of_a_day_ahead_makes_nothing_unusual_afterwards",
    ),
    "event days that alternate": (
        "features/test_profiles.py::test_a_late_event_of_yesterday_does_not_end_today",
    ),
    "a slow rise": (
        "features/test_profiles.py::"
        "test_amounts_that_rise_slowly_are_seen_before_they_are_twenty_times_the_usual",
    ),
    "many look-ups beside scoring": (
        "serving/test_guards.py::test_look_ups_wait_for_each_other_and_scoring_waits_for_none",
    ),
    "a body of empty objects": (
        "serving/test_guards.py::test_rows_are_counted_before_anything_is_built_of_them",
        "serving/test_guards.py::test_one_transaction_has_sixteen_kilobytes",
    ),
    "slow connections without a token": (
        "serving/test_strangers.py::test_what_is_slow_or_has_no_end_is_hung_up_on",
        "serving/test_strangers.py::test_who_has_no_token_makes_room_the_oldest_first",
    ),
    "wrong tokens": (
        "serving/test_strangers.py::test_wrong_tokens_are_counted_wait_and_are_told_once_a_minute",
    ),
    "bad rows with card numbers": (
        "serving/test_guards.py::test_refused_rows_are_masked_and_have_a_budget",
        "intake/test_refusals.py::test_card_numbers_are_masked_and_json_stays_json",
    ),
    # one analyst, one address, one dead kernel
    "heavy questions of processes that are gone": (
        "store/test_owner.py::test_who_is_gone_or_gives_up_loses_the_turn",
        "store/test_owner.py::test_a_board_is_not_held_up_by_the_queries_of_others",
        "store/test_owner.py::test_ctrl_c_ends_a_query_with_and_without_an_owner",
    ),
    "an analyst's table that keeps others from attaching": (
        "store/test_owner.py::test_what_an_analyst_makes_keeps_nobody_from_attaching",
    ),
    "a recipient that the server refuses": (
        "runs/test_notify.py::"
        "test_of_two_recipients_one_that_is_refused_does_not_make_the_other_read_it_twice",
    ),
    "recipients that are dropped": (
        "runs/test_notify.py::test_a_recipient_that_would_be_left_out_is_refused_by_name",
    ),
    "a dashboard's kernel that died": (
        "views/test_dashboard.py::test_a_kernel_that_died_before_its_visitor_came_is_replaced",
    ),
    "numbers that are not finite": (
        "test_config.py::test_what_is_no_finite_number_is_refused",
        "runs/test_notebooks.py::test_a_parameter_that_is_no_finite_number_is_refused",
    ),
    "a run that is interrupted": (
        "runs/test_runs.py::test_a_terminated_run_is_marked_interrupted_and_leaves_no_kernel",
    ),
    "types of an analyst's own expressions": (
        "store/test_owner.py::"
        "test_an_expression_has_one_answer_or_one_sentence_with_and_without_an_owner",
    ),
    # what a flood hides
    "a flood of alerts, told": (
        "runs/test_notify.py::test_of_many_alerts_in_several_looks_the_worst_is_told_first",
        "runs/test_notify.py::test_a_campaign_is_told_as_one_by_its_worst",
        "runs/test_notify.py::test_a_worse_alert_after_one_that_waits_was_told_or_only_counted_is_told",
        "runs/test_notify.py::test_a_storm_is_told_once_with_what_its_alerts_share",
    ),
    "a flood of alerts, in queue and board": (
        "review/test_cases.py::test_a_campaign_is_one_line_with_a_number_and_its_worst_case",
        "review/test_cases.py::test_a_storm_s_queue_shows_a_sample_of_each_kind_before_the_rest",
        "views/test_dashboard.py::test_a_storm_is_told_on_the_board_with_the_worst_alert_first",
    ),
    # who may do what
    "files that other accounts can read": (
        "store/test_care.py::test_what_is_made_is_the_owner_s_alone_whatever_the_umask",
    ),
    "formulas in CSV": (
        "cli/test_cli.py::test_csv_has_no_formula_and_numbers_as_they_are",
        "views/test_dashboard.py::test_a_spreadsheet_takes_nothing_for_a_formula",
    ),
    # what is lost
    "a journal whose end is gone": (
        "store/test_journal.py::"
        "test_answered_verdicts_that_are_gone_are_counted_and_the_torn_file_is_kept",
        "store/test_journal.py::test_a_log_of_the_database_that_lost_verdicts_is_seen",
    ),
    "any file that is missing, cut, emptied, older or another's": (
        "serving/test_losses.py::test_what_is_lost_is_said",
        "serving/test_losses.py::test_a_database_that_is_gone_is_not_begun_anew_over_its_journal",
    ),
}
"""What was tried, and the tests that hold it, below `tests/`. A test may also be marked
`@pytest.mark.attack("what was tried")`."""
Model = tuple[Detector, Policy]


def history(config: SyntheticConfig, first_day: int, n_days: int) -> pd.DataFrame:
    """Some days of transactions, with their scenario; "" is ordinary."""
    parts = list(generate(config, first_day, n_days))
    frame = pd.concat([rows.to_pandas() for rows, _ in parts], ignore_index=True)
    labels = pd.concat([labels.to_pandas() for _, labels in parts], ignore_index=True)
    return frame.assign(scenario=labels.scenario.astype(object).fillna("").to_numpy())


def fitted(passed: Scored, frame: pd.DataFrame) -> Model:
    """A forest and a policy of 0.5 % alerts from what the pass says of a window."""
    detector = Detector().fit(passed.signals, frame.customer_id)
    score = detector.score(detector.weigh(passed.signals)[1])
    limits = burst_limits(passed.counts, frame)
    counter = Counter.beside(limits, passed.counts, score, frame)
    return detector, Policy.from_budget(detector, 0.005, counter=counter)


def run(model: Model, profiles: Profiles, frame: pd.DataFrame) -> tuple[Profiles, Scored]:
    """Take rows through the pass with a copy of what is known."""
    scorer = Scorer(*model, profiles.copy())
    scored = scorer.run(frame.assign(seq=range(len(frame))), signals=True)
    return scorer.profiles, scored


class Tries:
    """A model, what is known after its window, and people to be probed."""

    def __init__(self) -> None:
        self.window = history(CONFIG, 0, 30)
        scorer = Scorer()
        passed = scorer.run(self.window.assign(seq=range(len(self.window))), signals=True)
        self.passed, self.model, self.known = passed, fitted(passed, self.window), scorer.profiles
        ordinary = self.window[self.window.scenario == ""]
        self.usual = ordinary.groupby("customer_id").amount.median()
        self.last = ordinary.drop_duplicates("customer_id", keep="last").set_index("customer_id")
        rng = np.random.default_rng(1)
        self.people = rng.choice(self.usual.index.to_numpy(), 150, replace=False)
        self.now = self.window.ts.max() + pd.Timedelta(hours=1)

    def rows(
        self, customer: list[str], ts: list[pd.Timestamp], amount: list[float]
    ) -> pd.DataFrame:
        """Transactions where each customer last was; a stranger is where the first one is."""
        like = [c if c in self.last.index else self.last.index[0] for c in customer]
        base = self.last.loc[like].reset_index(drop=True)
        return base.assign(
            customer_id=customer, ts=ts, amount=amount,
            transaction_id=[f"x{i}" for i in range(len(base))],
        )  # fmt: skip

    def probed(self, sent: pd.DataFrame | None) -> tuple[int, int]:
        """Alerts on 150 payments of 20 times the usual, and on 150 first payments of 2,000."""
        known, at = self.known, self.now + 2.5 * DAY
        some = self.usual.index[:40].tolist()
        day = self.rows(some, [self.now + 2 * DAY] * 40, self.usual.loc[some].tolist())
        known, _ = run(self.model, known, day if sent is None else pd.concat([sent, day]))
        who = self.people.tolist()
        above = self.rows(who, [at] * 150, (20 * self.usual.loc[who]).tolist())
        first = self.rows([f"new{i}" for i in range(150)], [at] * 150, [2_000.0] * 150)
        alerts = [int((run(self.model, known, p)[1].decision > 0).sum()) for p in (above, first)]
        return alerts[0], alerts[1]

    def shared(self) -> Iterator[tuple[str, str, str, bool]]:
        """One sender's amounts and categories."""
        quiet = self.probed(None)
        for n, amount in ((200, 0.001), (200, 1e12), (1_650, 0.001), (1_650, 1e12)):
            at = [self.now + pd.Timedelta(seconds=10 * k) for k in range(n)]
            found = self.probed(self.rows(["sender"] * n, at, [amount] * n))
            held = max(abs(a - b) for a, b in zip(found, quiet, strict=True)) <= 3
            name = f"{n:,} payments of {amount:g} by one customer"
            yield name, f"{quiet} alerts ± 3", str(found), held
        n = 25_000
        at = [self.now + pd.Timedelta(seconds=k) for k in range(n)]
        sent = self.rows(["sender"] * n, at, [10.0] * n).assign(
            category=[f"id{i}" for i in range(n)]
        )
        found = self.probed(sent)
        held = max(abs(a - b) for a, b in zip(found, quiet, strict=True)) <= 3
        yield f"{n:,} categories", f"{quiet} alerts ± 3", str(found), held

    def rises(self) -> Iterator[tuple[str, str, str, bool]]:
        """Amounts that rise slowly to twenty times the usual."""
        for a_day in (0.05, 0.1, 0.2, 0.35, 0.5):
            seen = 0
            for customer in self.people[:12].tolist():
                steps = np.arange(1, math.ceil(math.log(20) / math.log1p(a_day)) + 1)
                amount = float(self.usual[customer]) * (1 + a_day) ** steps
                at = [self.now + k * DAY for k in steps]
                rows = self.rows([customer] * len(steps), at, amount.tolist())
                seen += bool((run(self.model, self.known, rows)[1].decision > 0).any())
            yield (
                f"a rise of {a_day:.0%} a day to 20 times",
                "≥ 8 of 12",
                f"{seen} of 12",
                seen >= 8,
            )

    def times(self) -> Iterator[tuple[str, str, str, bool]]:
        """Times that are none of the customer's."""
        customer, begin = str(self.people[0]), self.now + pd.Timedelta(hours=3)
        at = [begin + pd.Timedelta(milliseconds=300 * k) for k in range(30)]
        for name, ahead in (("3 days", 3 * DAY), ("23.9 hours", pd.Timedelta(hours=23.9))):
            times = [t for moment in at for t in (moment, moment + ahead)]
            rows = self.rows([customer] * 60, times, [3.0] * 60)
            seen = int((run(self.model, self.known, rows)[1].decision[::2] > 0).sum())
            yield (
                f"a burst with payments of {name} ahead",
                "≥ 25 of 30",
                f"{seen} of 30",
                seen >= 25,
            )
        backwards = self.rows([customer] * 30, at[::-1], [3.0] * 30)
        seen = int((run(self.model, self.known, backwards)[1].decision > 0).sum())
        yield "a burst that counts backwards", "≥ 25 of 30", f"{seen} of 30", seen >= 25

    def retrained(self) -> Iterator[tuple[str, str, str, bool]]:
        """Ten trainings in a row on three times the fraud."""
        more = replace(CONFIG, rates={name: 3 * rate for name, rate in CONFIG.rates.items()})
        test = history(more, 30 + RETRAININGS * STEP, 6)
        frames, signals, counts = [self.window], [self.passed.signals], [self.passed.counts]
        model, known = self.model, self.known
        for k in range(RETRAININGS):
            part = history(more, 30 + k * STEP, STEP)
            known, out = run(model, known, part)
            frames.append(part)
            signals.append(out.signals)
            counts.append(out.counts)
            seen = pd.concat(frames, ignore_index=True)
            keep = (seen.ts >= seen.ts.max() - 30 * DAY).to_numpy()
            window = out._replace(
                signals=np.concatenate(signals)[keep], counts=np.concatenate(counts)[keep]
            )
            successor, of = fitted(window, seen[keep]), attacks.attacks(seen)
            share = [
                attacks.caught(lambda k, rows, m=m: run(m, k, rows)[1].decision, known, of)  # type: ignore[misc]
                for m in (model, successor)
            ]
            model = model if attacks.lost(*share) else successor  # as a training does
        caught = []
        for judge in (self.model, model):
            decision = run(judge, known, test)[1].decision
            caught.append(pd.Series(decision > 0).groupby(test.scenario.to_numpy()).mean())
        bursts = test.assign(decision=decision)[test.scenario == "burst"]
        for least, most in ((Decision.REVIEW, 5), (Decision.BLOCK, 12)):
            place = [
                int(np.argmax(d >= least)) + 1 if (d >= least).any() else 999
                for _, d in bursts.groupby("customer_id").decision
            ]
            said = f"{np.median(place):.0f}"
            name = f"a burst after {RETRAININGS} trainings on 3 × the fraud: first {least.label}"
            yield name, f"≤ {most}th payment", said, float(np.median(place)) <= most
        for scenario in ("burst", "travel", "night", "spike"):
            then, now = (float(c.get(scenario, math.nan)) for c in caught)
            yield f"  recall of {scenario}", "≥ 0.9 × the first", f"{now:.2f} of {then:.2f}", (
                now >= 0.9 * then
            )  # fmt: skip


@dataclass
class Held:
    """A plugin of pytest: runs what holds a try, and notes for each try what passed and failed."""

    tests: dict[str, list[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    n_passed: int = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_test = {test: tried for tried, tests in HELD_BY.items() for test in tests}
        chosen = []
        for item in items:
            name = item.nodeid.partition("[")[0].removeprefix("tests/")
            told = [str(mark.args[0]) for mark in item.iter_markers("attack")]
            told += [by_test[name]] if name in by_test else []
            for tried in told:
                self.tests.setdefault(tried, []).append(item.nodeid)
            if told:
                chosen.append(item)
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.n_passed += report.when == "call" and report.passed
        if not report.passed:  # skipped is not held
            self.failed.add(report.nodeid)


def missing() -> list[str]:
    """Names in `HELD_BY` that are no test's."""
    named = [test.split("::") for tests in HELD_BY.values() for test in tests]
    return [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).exists() or f"def {name}(" not in (TESTS / file).read_text("utf-8")
    ]


def held_by_tests() -> Iterator[tuple[str, str, str, bool]]:
    """Every try that tests hold."""
    held, said = Held(), io.StringIO()
    with redirect_stdout(said):
        pytest.main([str(TESTS), "-q", "-n", "0", "-p", "no:cacheprovider"], plugins=[held])
    if not held.n_passed:
        print(said.getvalue(), file=sys.stderr)
    for tried in sorted({*HELD_BY, *held.tests}, key=lambda one: [*HELD_BY, one].index(one)):
        tests = held.tests.get(tried, [])
        failed = sorted(held.failed & {*tests})
        found = f"{len(tests) - len(failed)} of {len(tests)} {' '.join(failed)}".rstrip()
        yield tried, "all of its tests", found, bool(tests and held.n_passed and not failed)


def main() -> int:
    """Try all of it; 1 where something broke, 2 where a test is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("detection", "tests"), help="one part of it")
    only = parser.parse_args().only
    if gone := missing():
        print(f"These are no tests: {' '.join(gone)}", file=sys.stderr)
        return 2
    parts = [held_by_tests] if only != "detection" else []
    if only != "tests":
        tries = Tries()
        parts = [tries.shared, tries.rises, tries.times, tries.retrained, *parts]
    broken = 0
    for part in parts:
        for name, asked, found, held in part():
            broken += not held
            print(f"{'held  ' if held else 'BROKEN'}  {name:<72} {asked:<24} {found}", flush=True)
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
