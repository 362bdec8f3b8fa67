"""Fixtures that several test files share; who needs none imports nothing of the package here."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import pandas as pd

    from aegis_core.detection.detector import Detector
    from aegis_core.detection.policy import Policy
    from aegis_core.store import Store

# A shell that starts a job in the background lets it ignore Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example may wait until a kernel is compiled.
settings.register_profile("compiled", deadline=None, max_examples=50)
settings.load_profile("compiled")

LONGEST = (
    *("runs/test_verify.py", "views/test_dashboard_browser.py", "runs/test_notebooks.py"),
    *("serving/test_service_process.py", "cli/test_up.py", "views/test_dashboard.py"),
    *("serving/test_any_order.py", "store/test_care.py", "runs/test_schedule.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no worker has one to itself at the end."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on a file that is not there yet."""
    from aegis_core.store import connect

    return connect(tmp_path / "aegis.duckdb", wait_s=5)


@pytest.fixture(scope="session")
def awkward() -> pd.DataFrame:
    """A short history in order of arrival with every awkward row, and `is_fraud`.

    A null place, category and merchant, ties in time, midnight, a customer seen once, days without
    fraud, late events, a jump of the clock and back, hostile strings, 0.01 and 1e12.
    """
    import pandas as pd

    hostile = "'; DROP TABLE transactions; --"
    berlin, tokyo = (52.52, 13.405), (35.677, 139.692)
    rows = [
        ("anna", "2026-03-02 08:00:00", 20.0, "food", *berlin, False),
        ("anna", "2026-03-02 12:00:00", 25.0, "food", *berlin, False),
        ("once", "2026-03-02 12:00:00", 3.5, None, None, None, False),
        (hostile, "2026-03-02 12:00:00", 9.0, "\u202eesrever", -90.0, 180.0, False),
        ("anna", "2026-03-02 12:00:00", 25.0, "food", *berlin, False),
        ("anna", "2026-03-02 23:59:59.999999", 0.01, "toys", 48.857, 2.352, False),
        (hostile, "2026-03-03 00:00:00", 9.0, None, 90.0, -180.0, False),
        ("anna", "2026-03-02 23:59:00", 22.0, "food", *berlin, False),
        ("nan", "2026-03-03 00:00:00", 12.0, "nan", 0.0, 0.0, False),
        ("anna", "2026-03-05 02:30:00", 1e12, "food", *tokyo, True),
        *(("anna", f"2026-03-05 02:31:{s // 8:02d}", 1.0, "toys", *tokyo, True) for s in range(80)),
        ("nan", "2099-12-31 23:59:59", 12.0, "food", 0.0, 0.0, False),
        ("nan", "2026-03-05 09:00:00", 13.0, "food", 0.0, 0.1, False),
        ("anna", "2026-03-05 01:00:00", 24.0, None, *berlin, False),
        ("Zoë 🂡", "2026-03-07 09:00:00", 80.0, "x" * 200, 12.0, 12.0, False),
        (hostile, "2026-03-08 00:00:00", 0.01, "food", None, None, False),
        ("anna", "2026-03-09 12:00:00", 21.0, "food", *berlin, False),
    ]
    frame = pd.DataFrame(
        rows, columns=["customer_id", "ts", "amount", "category", "lat", "lon", "is_fraud"]
    )
    return frame.assign(
        seq=range(len(frame)),
        transaction_id=[f"t{i}" for i in range(len(frame))],
        ts=pd.to_datetime(frame.ts, format="ISO8601").dt.as_unit("us"),
        currency="EUR",
        merchant_id=[None, "m'1"] * (len(frame) // 2),
    )


@pytest.fixture(scope="session")
def payments() -> tuple[pd.DataFrame, pd.DataFrame]:
    """40 days of 200 synthetic customers: transactions in order of arrival, and their labels."""
    import pyarrow as pa

    from aegis_core.intake.synthetic import SyntheticConfig, generate

    config = SyntheticConfig(
        n_transactions=20_000, n_customers=200, n_merchants=300, days=40, label_delay_days=3
    )
    transactions, labels = zip(*generate(config), strict=True)
    frame = pa.concat_tables(transactions).to_pandas()
    texts = frame.select_dtypes("category").columns
    frame = frame.astype(dict.fromkeys(texts, "str")).assign(seq=range(len(frame)))
    return frame, pa.concat_tables(labels).to_pandas().astype({"scenario": "str"})


@pytest.fixture(scope="session")
def trained(payments: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[Detector, Policy]:
    """A detector fitted on the first half of `payments`, and a policy of 2 % alerts."""
    from aegis_core.detection.detector import Detector
    from aegis_core.detection.policy import Policy
    from aegis_core.detection.scoring import Scorer

    signals = Scorer().run(payments[0].iloc[:10_000], signals=True).signals
    detector = Detector(n_trees=40, seed=1).fit(signals)
    return detector, Policy.from_budget(detector, 0.02, 0.3)
