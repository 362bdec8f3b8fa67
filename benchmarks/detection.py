"""How well the detector does without labels, beside single factors and other people's detectors.

Three data sets, one configuration. The public ones are read from `--data FOLDER` (handbook.parquet,
sparkov.parquet, as `aegis import` takes them) and left out where they are not there. Chosen on
(handbook: weeks from 2018-06-13 to 07-17; sparkov: 2020-01-15 to 06-21), reported on what follows.
The usual forest is scikit-learn's IsolationForest with its defaults on eight raw features from a
plain pandas pipeline; `peers.py` says how the others are used. One core.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import learned
import numpy as np
import pandas as pd
import peers
from protocols import VIEWS, Task, View, mean_and_spread, say, show, tasks

from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.evaluation import Evaluation, evaluate
from aegis_core.evaluation.bursts import burst_summary, bursts, campaign_summary, campaigns
from aegis_core.evaluation.calibration import forecast, forecast_summary
from aegis_core.evaluation.cases import named, named_summary
from aegis_core.metrics import auc_roc, average_precision, recall_at_budget
from aegis_core.schema import FACTORS, Decision

BUDGET = 0.005
"""Share of transactions that may become alerts, where recall is reported."""
OURS = {
    "forest": "Aegis",
    "amount": "amount alone",
    **{f"factor:{f}": f"factor {f}" for f in FACTORS},
}
LEARNER_SEEDS = 3
TITLES = "\n  ".join(v.title for views in VIEWS.values() for v in views)
EXAMPLES = f"""
titles of the tables:
  {TITLES}

examples:
  python benchmarks/detection.py --data ~/fraud-data
  python benchmarks/detection.py --only synthetic --seeds 1
  python benchmarks/detection.py --only synthetic --seeds 1 --crowds 32
  python benchmarks/detection.py --data ~/fraud-data --only "4 test weeks" --peers --learner
"""


def figures(scores: pd.DataFrame, view: View, columns: list[str], seed: int) -> pd.DataFrame:
    """One row a fold and detector: `auc`, `ap`, `recall`; the detector `by chance` too."""
    rows = []
    for fold, part in view.of(scores).groupby("fold"):
        for column in columns:
            told = (
                auc_roc(part.is_fraud, part[column]),
                average_precision(part.is_fraud, part[column]),
                recall_at_budget(part.is_fraud, part[column], BUDGET),
            )
            rows.append((seed, fold, column, *(f.value for f in told)))
        rows.append((seed, fold, "by chance", *(f.floor for f in told)))
    kinds = {"auc": float, "ap": float, "recall": float}
    return pd.DataFrame(rows, columns=["seed", "fold", "detector", *kinds]).astype(kinds)


def own_times(task: Task) -> tuple[float, float, str]:
    """Seconds to fit the detector and to score a million rows; a sentence on the pass before."""
    frame, window = task.frame, task.folds[0]
    first = Scorer().run(frame.head(5000), signals=True).signals
    warm = Detector().fit(first)  # what is compiled or loaded once is not timed
    warm.score(warm.weigh(first)[1])
    Scorer(warm, Policy.from_budget(warm, BUDGET)).run(frame.head(5000))
    began = time.perf_counter()
    signals = Scorer().run(frame, signals=True).signals
    passed = time.perf_counter() - began
    inside = ((frame.ts >= window.train_from) & (frame.ts < window.train_to)).to_numpy()
    began = time.perf_counter()
    detector = Detector().fit(signals[inside])
    fit = time.perf_counter() - began
    began = time.perf_counter()
    detector.score(detector.weigh(signals)[1])
    score = time.perf_counter() - began
    whole = Scorer(detector, Policy.from_budget(detector, BUDGET))
    began = time.perf_counter()
    whole.run(frame)
    live = time.perf_counter() - began
    million = 1e6 / len(frame)
    return fit, score * million, (
        f"Seconds a million rows: Aegis' profiles and signals {passed * million:.1f}, with score "
        f"and decision in one pass {live * million:.1f}"
    )  # fmt: skip


def policy_lines(done: list[Evaluation]) -> None:
    """Print what the policy's own decisions gave, all folds and seeds together."""
    print(f"The policy over all test windows, {len(done)} seed(s) together:")
    parts = [e.recall().set_index("scenario").recall for e in done]
    recall = pd.concat(parts, axis=1)
    share = pd.Series([(e.scores.decision != Decision.APPROVE).mean() for e in done])
    caught = pd.Series(
        [(e.scores.decision[e.scores.is_fraud] != Decision.APPROVE).mean() for e in done]
    )
    percent = mean_and_spread(100 * share, 2)
    print(
        f"  alerts: {percent} % of the transactions become alerts, recall {mean_and_spread(caught)}"
    )
    told = ", ".join(f"{s} {mean_and_spread(r)}" for s, r in recall.iterrows())
    if told:
        print(f"  recall by scenario: {told}")
    print(f"  forecast: {forecast_summary(pd.concat([forecast(e.days) for e in done]))}")
    through = pd.concat([bursts(e.scores) for e in done])
    if len(through):
        print(f"  time to detect: {burst_summary(through)}")
    crowds = pd.concat([campaigns(e.scores) for e in done])
    if len(crowds):
        print(f"  crowds: {campaign_summary(crowds, [fold for e in done for fold in e.folds])}")
    parts = [named(e.scores, e.evidence) for e in done]
    first = pd.concat(parts).groupby("scenario", sort=False).sum().reset_index()
    if len(first):
        print(f"  reasons: {named_summary(first.assign(share=first.named / first.caught))}")


def label_free(task: Task, seeds: int, compared: list[peers.Peer]) -> None:
    """Print a table a view: mean over folds and seeds, spread over seeds; then the policy's."""
    began = time.perf_counter()
    features = peers.raw_features(task.frame)
    made = (time.perf_counter() - began) / len(task.frame) * 1e6
    fit, score, sentence = own_times(task)
    times = [("forest", fit, score)]
    done: list[Evaluation] = []
    rows: dict[View, list[pd.DataFrame]] = {view: [] for view in task.views}
    for seed in range(seeds):
        say(f"{task.name}: Aegis, seed {seed}")
        result = evaluate(
            task.frame, task.labels, task.folds,
            alert_budget=BUDGET, exclude_known=task.exclude_known, seed=seed,
        )  # fmt: skip
        scores = result.scores.copy()
        columns = ["forest", "amount", *(f"factor:{f}" for f in FACTORS)]
        for peer in compared:
            if peer.seeded or seed == 0:
                ran = peers.run(peer, task, scores, features, seed)
                scores[peer.name] = ran.score
                times.append((peer.name, ran.fit_s, ran.score_s))
                columns.append(peer.name)
        for view in task.views:
            rows[view].append(figures(scores, view, columns, seed))
        done.append(result)
    took = pd.DataFrame(times, columns=["detector", "fit", "score"]).groupby("detector").mean()
    for view, parts in rows.items():
        table = pd.concat(parts)
        table = table[~table.detector.isin(["by chance", "amount"]) | (table.seed == 0)]
        by_seed = table.groupby(["detector", "seed"], sort=False)[["auc", "ap", "recall"]].mean()
        order = ["by chance", "amount", *(f"factor:{f}" for f in FACTORS)]
        order += [p.name for p in compared] + ["forest"]
        text = by_seed.groupby(level="detector").agg(mean_and_spread).loc[order]
        text.columns = ["AUC", "average precision", f"recall at {BUDGET:.1%}"]
        seconds = took.reindex(order).map(
            lambda s: "–" if np.isnan(s) else f"{s:.{1 + 2 * (s < 0.1)}f}"
        )
        text["fit, s"], text["score 1 M rows, s"] = seconds.fit, seconds.score
        print(f"\n{view.title}: {len(parts[0].fold.unique())} test window(s), {seeds} seed(s)")
        show(text.rename(index=lambda i: OURS.get(str(i), str(i))))
    print(f"{sentence}; the peers' raw features with pandas {made:.1f}.")
    for peer in compared:
        if peer.note:
            print(f"{peer.name} {peer.note}.")
    policy_lines(done)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--data", type=Path, default=Path("data/public"), help="the public files")
    parser.add_argument("--seeds", type=int, default=5, help="forests fitted on each (default 5)")
    parser.add_argument("--pictures", type=Path, help="a folder to draw learning curves into")
    parser.add_argument("--only", default="", metavar="NAME", help="tables whose title has NAME")
    parser.add_argument("--peers", action=switch, default=False, help="other people's detectors")
    parser.add_argument(
        "--learner", action=switch, default=False,
        help=f"learning from labels and answers, with at most {LEARNER_SEEDS} seeds",
    )  # fmt: skip
    parser.add_argument(
        "--crowds", type=float, default=1.0, metavar="TIMES",
        help="so many times as many card tests over many cards and sales in the synthetic data; "
        "with 32, some 40 tests fall into its test weeks (default 1)",
    )  # fmt: skip
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error("--seeds must be at least 1")
    if not any(given.only.lower() in v.title.lower() for views in VIEWS.values() for v in views):
        parser.error(f"no table's title has {given.only!r}; see --help for the titles")
    compared = peers.present(given.peers)
    for task in tasks(given.data, given.only, given.crowds):
        label_free(task, given.seeds, compared)
        if given.learner:
            learned.tables(task, min(given.seeds, LEARNER_SEEDS), BUDGET)
            learned.curve(task, min(given.seeds, LEARNER_SEEDS), given.pictures)


if __name__ == "__main__":
    main()
