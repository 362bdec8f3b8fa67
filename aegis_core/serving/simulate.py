"""The simulator: made-up transactions of the database's population arrive and are scored live.

The engine of this process scores them, or a running service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core.config import Settings
from aegis_core.errors import InputError
from aegis_core.intake.synthetic import SyntheticConfig, history_config, stream
from aegis_core.serving.client import Client
from aegis_core.serving.engine import Engine
from aegis_core.serving.token import kept_token
from aegis_core.store import Store
from aegis_core.units.money import worth

TICK_S = 0.5
"""Length of a micro-batch of a paced stream, in seconds."""
UNPACED_ROWS = 2_000
"""Rows of a micro-batch of a stream without pacing."""


@dataclass
class Tally:
    """What a simulated stream has done so far."""

    transactions: int = 0
    reviewed: int = 0
    blocked: int = 0
    frauds: int = 0
    caught: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[tuple[str, str], float | None]:
        """The figures as `runs.record` takes them; a share of nothing is None."""
        alerts = self.reviewed + self.blocked
        return {
            ("alert_rate", "stream"): alerts / self.transactions if self.transactions else None,
            ("caught_share", "stream"): self.caught / self.frauds if self.frauds else None,
            ("transactions", "stream"): float(self.transactions),
        }

    def sentence(self) -> str:
        """The bottom line."""
        rate = self.transactions / self.seconds if self.seconds else 0.0
        caught = f"{self.caught} of {self.frauds} frauds stopped or queued" if self.frauds else ""
        return (
            f"{self.transactions:,} transactions in {self.seconds:.1f} s ({rate:,.0f} a second): "
            f"{self.blocked} blocked, {self.reviewed} to review"
            + (f"; {caught}." if caught else "; no fraud among them.")
        )


def simulate(
    store: Store,
    settings: Settings,
    *,
    n_transactions: int = 2_000,
    seconds: float = 0.0,
    rate: float = 0.0,
    fraud_multiplier: float = 3.0,
    target: str = "",
    say: Callable[[str], object] = print,
    max_lines: int = 40,
    progress: bool = True,
) -> Tally:
    """Let new transactions of the database's population arrive and be scored live.

    A database of imported data gets a synthetic population of its own, after its last day. The
    stream's clock is its own, which a service at `target` has to allow (AEGIS_FUTURE_MINUTES=0).
    Ctrl-C, or the stop button of a notebook, ends it as well; what was scored until then stays.

    Parameters
    ----------
    n_transactions : where the stream ends; 0 means that `seconds` alone ends it.
    seconds : when it ends; 0 means never by the clock.
    rate : transactions a second; 0 means as fast as they can be scored.
    fraud_multiplier : of the population's fraud rates, so that a short stream has some.
    target : address of a running service, which scores them; "" scores them in this process.
    say, max_lines : called with a line for each alert and a few approvals, at most so often.

    Raises
    ------
    InputError : Nothing would end the stream, or a number is negative.
    NotReady : There is no champion model.
    """
    if min(n_transactions, seconds, rate, fraud_multiplier) < 0:
        raise InputError("n_transactions, seconds, rate and fraud_multiplier may not be negative.")
    if not n_transactions and not seconds:
        raise InputError("Give n_transactions or seconds, or the stream would never end.")
    from tqdm import tqdm  # type: ignore[import-untyped]

    live: AbstractContextManager[Engine | Client] = (
        closing(Client(target, settings.token.get_secret_value() or kept_token(store)))
        if target
        else Engine.open(store, settings.with_any_clock())
    )
    tally, lines = Tally(), 0
    size = max(1, round(rate * TICK_S)) if rate else UNPACED_ROWS
    total = n_transactions or (int(rate * seconds) if rate else None)
    expected_s = seconds or (n_transactions / rate if rate else 0)
    bar = tqdm(total=total, unit="tx", disable=not progress, mininterval=max(0.5, expected_s / 100))
    with bar, live as scores, suppress(KeyboardInterrupt):
        began = time.monotonic()
        for i, (rows, labels) in enumerate(
            _arrivals(store, size, n_transactions, fraud_multiplier)
        ):
            if rate:
                time.sleep(max(0.0, began + i * size / rate - time.monotonic()))
            if seconds and time.monotonic() - began >= seconds:
                break
            verdicts = scores.take(rows, "simulate", labels)
            alert = (verdicts.decision != "approve").to_numpy()
            fraud = verdicts.transaction_id.isin(
                labels.filter(labels.column("is_fraud")).column("transaction_id").to_pylist()
            ).to_numpy()
            tally.transactions += len(verdicts)
            tally.blocked += int((verdicts.decision == "block").sum())
            tally.reviewed += int((verdicts.decision == "review").sum())
            tally.frauds += int(fraud.sum())
            tally.caught += int((fraud & alert).sum())
            first = (np.arange(len(alert)) == 0) & (i % 20 == 0)
            for line in map(_line, verdicts[alert | first].to_dict("records")):
                if lines < max_lines:
                    say(line)
                elif lines == max_lines:
                    say("… more in the table verdicts.")
                lines += 1
            bar.update(len(verdicts))
    tally.seconds = time.monotonic() - began
    return tally


def _arrivals(
    store: Store, size: int, n_transactions: int, fraud_multiplier: float
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Micro-batches of `size` rows, endless unless `n_transactions` says otherwise."""
    with store.reading() as session:
        last = session.value("SELECT max(ts) FROM transactions")
        config = history_config(session)
    if config is None:
        config = SyntheticConfig(start=f"{last + pd.Timedelta(days=1):%Y-%m-%d}")
    endless = n_transactions or 2**62
    for rows, labels in stream(config, endless, after=last, fraud_multiplier=fraud_multiplier):
        for start in range(0, rows.num_rows, size):
            yield rows.slice(start, size), labels.slice(start, size)


def _line(verdict: Mapping[Hashable, Any]) -> str:
    """One verdict as an analyst would say it."""
    money = worth(verdict["amount"], verdict["currency"])
    word = {"approve": "Approved", "review": "Review", "block": "Blocked"}[str(verdict["decision"])]
    why = [str(r["text"]) for r in verdict["reasons"]]
    return f"{word}: {'; '.join(why) if why else money} [{verdict['transaction_id']}]"
