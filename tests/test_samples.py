"""What older versions left is read: databases, models, a killed service, settings, notebooks.

`tests/samples/README.md` says which version made which sample, and how.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.detection import registry
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import NotReady
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake import import_files
from aegis_core.serving.simulate import simulate
from aegis_core.store import Store, connect

SAMPLES = Path(__file__).with_name("samples")
TOKEN = "a-token-for-the-tests"
PRESENT = "6"
"""The schema of the oldest sample whose snapshot and verdicts are as today's code has them."""
IMPORTED = {
    "aegis_core": (
        *("carried", "config", "dashboard", "drift", "evaluation", "figures", "lineage", "live"),
        *("models", "review", "runs", "synthetic"),
    ),
    "aegis_core.carried": ("begin",),
    "aegis_core.config": ("load", "secret"),
    "aegis_core.dashboard": ("opened", "show"),
    "aegis_core.drift": ("day_of", "judge", "record", "traffic"),
    "aegis_core.evaluation": ("DETECTORS", "evaluate", "side_by_side", "splits"),
    "aegis_core.evaluation.splits": ("plan",),
    "aegis_core.figures": (
        *("audit_heatmap", "bursts", "cases", "compared", "contributions", "costs"),
        *("daily_alerts", "differences", "drift_effects", "drift_movers", "drift_shapes"),
        *("evidence_tails", "forecasts", "histories", "hours", "landscape", "payments"),
        *("precision_recall", "recall_bars", "reliability", "score_histogram", "what_if"),
    ),
    "aegis_core.lineage": ("seen",),
    "aegis_core.live": ("parity", "simulate"),
    "aegis_core.models": ("audited", "champion", "history", "labels", "recorded"),
    "aegis_core.review": ("show",),
    "aegis_core.runs": (
        *("record_data", "record_metrics", "record_model", "record_proof", "record_scores"),
    ),
    "aegis_core.schema": ("TABLES", "TOLD_FACTORS"),
    "aegis_core.store": ("connect",),
    "aegis_core.synthetic": ("SCENARIOS", "SyntheticConfig", "difficulty", "write_history"),
    "aegis_core.synthetic.difficulty": ("audit", "bottom_line", "rule_scores"),
    "aegis_core.training": ("train",),
}
"""What the notebooks of commit d22a226 take from the package, by module: `from MODULE import NAME`,
or `NAME` as an attribute of a module that they imported."""


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    """The schema of the sample, 4 unless a test names others."""
    return str(getattr(request, "param", 4))


@pytest.fixture
def found(schema: str) -> dict[str, Any]:
    """What the version that made the sample found in it, and said next."""
    read: dict[str, Any] = json.loads((SAMPLES / f"schema_{schema}.json").read_text("utf-8"))
    return read


@pytest.fixture
def home(schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample, unpacked."""
    home = tmp_path / "home"
    with tarfile.open(SAMPLES / f"schema_{schema}.tar.xz") as archive:
        archive.extractall(home, filter="data")
    monkeypatch.setenv("AEGIS_HOME", str(home))
    for name in ("AEGIS_MAIL", "AEGIS_HOOK"):
        monkeypatch.setenv(name, "json://127.0.0.1:9/")
    return home


@pytest.fixture
def store(home: Path) -> Store:
    return connect(config.load(home=home).db)


def aegis(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints that ends well."""
    code = main(words)
    out, error = capsys.readouterr()
    assert code == 0, error
    return out


def counted(store: Store, tables: Iterable[str]) -> dict[str, int]:
    with store.reading() as session:
        return {t: session.rows(f'SELECT count(*) AS n FROM "{t}"')[0]["n"] for t in tables}


# --- databases, models, settings -------------------------------------------------------------


@pytest.mark.parametrize("schema", [1, 2], indirect=True)
def test_an_older_database_is_brought_up_to_date_with_every_row_and_a_copy_kept(
    schema: str, home: Path, store: Store, found: dict[str, Any]
) -> None:
    before = shutil.copytree(store.path.parent, home / "before") / store.path.name
    rows = counted(store, found["rows"])
    migrated = {"audit": 1, "meta": 4}  # its base currency, since when meaning and columns are kept
    assert rows == {t: n + migrated.get(t, 0) for t, n in found["rows"].items()}
    assert min(rows[t] for t in ("transactions", "labels", "verdicts", "models", "runs")) > 0
    (kept,) = store.path.parent.glob(f"aegis.v{schema}-*.duckdb")
    with duckdb.connect() as raw:
        for name, path in {"before": before, "kept": kept, "now": store.path}.items():
            raw.execute(f"ATTACH '{path}' AS {name} (READ_ONLY)")
        for table in rows.keys() - {"meta"}:
            columns = raw.execute(
                "SELECT column_name FROM duckdb_columns() WHERE table_name = ? "
                "GROUP BY column_name HAVING count(*) = 3 AND count(DISTINCT data_type) = 1",
                [table],
            ).fetchall()
            chosen = ", ".join(f'nullif("{c}"::VARCHAR, \'nan\') AS "{c}"' for (c,) in columns)
            assert len(columns) > 1
            for later in ("kept", "now"):
                lost = raw.execute(
                    f"SELECT {chosen} FROM before.{table} "
                    f"EXCEPT ALL SELECT {chosen} FROM {later}.{table}"
                ).fetchall()
                assert lost == [], (table, later)


@pytest.mark.parametrize("schema", [2, 4, 5, 6, 7], indirect=True)
def test_the_champion_goes_on_scoring_and_what_it_scores_now_replays_bit_for_bit(
    schema: str, home: Path, store: Store
) -> None:
    settings = config.load(home=home)
    before = parity(store, settings)
    told = "of a version of Aegis that computed otherwise" in before.sentence()
    assert (before.checked == 0, before.older > 50, told) == ((schema < PRESENT,) * 3)
    assert before.different == 0
    tally = simulate(store, settings, n_transactions=20, say=lambda _: None, progress=False)
    assert tally.transactions == 20
    assert parity(store, settings) == Parity(before.checked + 20, 0, None, before.older)


@pytest.mark.parametrize("schema", [1], indirect=True)
def test_a_model_of_other_arrays_says_so_and_a_new_one_takes_its_place(
    home: Path, store: Store
) -> None:
    settings = config.load(home=home)
    with pytest.raises(NotReady, match=r"cannot be read .* Train one with `aegis run train`"):
        registry.champion(store, settings)
    made = train(store, settings, Recipe(train_days=60, n_trees=10, max_samples=64))
    assert registry.champion(store, settings).version == made.version
    tally = simulate(store, settings, n_transactions=20, say=lambda _: None, progress=False)
    assert tally.transactions == 20


@pytest.mark.parametrize("schema", [1, 2, 4, 5, 6, 7], indirect=True)
def test_models_runs_and_the_audit_are_listed(
    schema: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = aegis(capsys, "models")
    for row in store.rows("SELECT version, run_id, data_hash FROM models"):
        assert row["version"] in listed
        said = aegis(capsys, "lineage", row["version"])
        assert row["run_id"] in said
        assert row["data_hash"] in said
    for row in store.rows("SELECT run_id, notebook, status FROM runs"):
        said = aegis(capsys, "lineage", row["run_id"])
        assert f"{row['run_id']}, {row['status']}" in said
        assert f"notebook  {row['notebook']}" in said
    aegis(capsys, "audit", "verify")
    if schema in "34":
        assert "average_precision" in aegis(capsys, "lineage", "average_precision")


def test_its_aegis_toml_is_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config.load(home=home)
    assert (settings.alert_budget, settings.seed, settings.require_approval) == (0.05, 7, True)
    entries = {row["entry"]: row for row in json.loads(aegis(capsys, "schedule", "list", "--json"))}
    assert {name: row["cron"] for name, row in entries.items()} == {
        "nightly": "30 2 * * *",
        "trust": "0 5 * * 0",
    }
    assert entries["nightly"]["status"] == "done"
    rules = aegis(capsys, "notify", "list")
    assert "night watch" in rules
    assert "at once" in rules


@pytest.mark.parametrize("schema", [4, 5, 6, 7], indirect=True)
def test_its_backup_is_put_in_place(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = str(tmp_path / "elsewhere" / "again.duckdb")
    aegis(capsys, "restore", str(home / "backup.tar"), "--to", db)
    restored = connect(db)
    settings = config.load(home=home, db=db)
    before = parity(restored, settings)
    simulate(restored, settings, n_transactions=20, say=lambda _: None, progress=False)
    assert parity(restored, settings) == Parity(before.checked + 20, 0, None, before.older)


@pytest.mark.parametrize("schema", [4], indirect=True)
def test_a_run_of_a_notebook_that_was_changed_is_verified_and_says_so(
    schema: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = store.rows(
        "SELECT run_id, notebook_hash AS then FROM runs WHERE notebook = 'start' "
        "ORDER BY started_at DESC LIMIT 1"
    )
    code = main(["verify", run["run_id"]])
    out, error = capsys.readouterr()
    (now,) = store.rows(
        "SELECT notebook_hash AS hash, status, error FROM runs WHERE notebook = 'verify'"
    )
    told = f"The notebook changed since: {run['then']} then, {now['hash']} now."
    assert code in (0, 1), error
    assert (told in out) == (now["hash"] != run["then"])


# --- the service -----------------------------------------------------------------------------


class Service:
    """The service as a process, once it is ready."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = home / "service.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aegis_core.cli", "serve", "--port", str(self.port)],
                env={**os.environ, "AEGIS_TOKEN": TOKEN}, stdout=out, stderr=out,
            )  # fmt: skip

    def __enter__(self) -> Service:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.ask("GET", "/v1/health")
                return self
            time.sleep(0.02)
        self.__exit__()
        raise AssertionError(self.log.read_text())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """The answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            said = json.loads(response.read())
        finally:
            connection.close()
        assert response.status == 200, said
        return said


@pytest.mark.parametrize(
    ("schema", "snapshot"),
    [(4, "whole"), (4, "damaged"), (5, "whole"), (6, "whole"), (6, "damaged"), (7, "whole")],
    indirect=["schema"],
)
def test_a_service_that_was_killed_goes_on_with_all_that_it_answered(
    schema: str, home: Path, store: Store, found: dict[str, Any], snapshot: str
) -> None:
    """From the journal that it left, and the whole history where its snapshot cannot be read."""
    if snapshot == "damaged":
        (profiles,) = (home / "data" / "aegis.duckdb.state").glob("*.profiles.npz")
        profiles.write_bytes(profiles.read_bytes()[:200])
    with Service(home) as service:
        for then in found["tail"]:
            kept = service.ask("GET", f"/v1/transactions/{then['transaction_id']}")["verdict"]
            assert kept == {name: then[name] for name in kept}
        said = [service.ask("POST", "/v1/transactions", row) for row in found["sent"]]
    anew = "the history is folded anew" in service.log.read_text()
    assert anew == (schema < PRESENT or snapshot == "damaged")
    for then, now in zip(found["answered"], said, strict=True):
        assert (now["transaction_id"], now["model_version"]) == (
            then["transaction_id"],
            then["model_version"],
        )
    # the learner of 4 knew answers otherwise: it scores no more, and everything else goes on
    scores = schema != "4"
    assert ("a model in shadow does not score" in service.log.read_text()) != scores
    came = "SELECT * FROM shadow_scores WHERE transaction_id LIKE 'next-%'"
    assert len(store.rows(came)) == scores * len(said)
    proof = parity(store, config.load(home=home))
    kept = found["rows"]["verdicts"] if schema >= PRESENT else 0
    assert (proof.checked, proof.different) == (kept + len(said), 0)


@pytest.mark.parametrize("schema", [4, 5, 6, 7], indirect=True)
def test_what_a_killed_service_answered_is_in_the_tables_once_anybody_opens_them(
    schema: str, home: Path, store: Store, found: dict[str, Any]
) -> None:
    assert list((home / "data" / "aegis.duckdb.journal").glob("*.log"))
    with duckdb.connect(str(store.path), read_only=True) as raw:
        (there,) = raw.execute("SELECT count(*) FROM transactions").fetchall()[0]
    assert there < found["rows"]["transactions"]
    newer = {"4": 4, "5": 2, "6": 1}.get(schema)
    migrated = {"audit": 1, "meta": newer} if newer else {}
    rows = {table: n + migrated.get(table, 0) for table, n in found["rows"].items()}
    assert counted(store, found["rows"]) == rows
    there = {row["t"] for row in store.rows("SELECT transaction_id AS t FROM verdicts")}
    assert {verdict["transaction_id"] for verdict in found["tail"]} <= there


@pytest.mark.parametrize("schema", [5], indirect=True)
def test_a_file_with_a_column_that_came_later_is_still_known(home: Path, store: Store) -> None:
    names = ("transaction_id", "customer_id", "ts", "amount", "currency", "merchant_id",
             "category", "channel", "lat", "lon", "kind", "status")  # fmt: skip
    (row,) = store.rows(f"SELECT {', '.join(names)} FROM transactions WHERE lat > 0 LIMIT 1")
    file = home / "again.csv"
    pd.DataFrame([row | {"device_id": "d1"}]).to_csv(file, index=False)
    found = import_files([file], store, progress=False, most_rejected=1.0)
    assert (found.accepted, found.already_there) == (0, 1), found.rejected


# --- imports ---------------------------------------------------------------------------------


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or a name in one."""
    module, _, name = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ImportError:
        try:
            return hasattr(importlib.import_module(module), name)
        except ImportError:
            return False
    return True


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in IMPORTED.items() for name in names]
)
def test_what_notebooks_imported_is_there_or_the_error_names_the_new_place(
    module: str, name: str
) -> None:
    error = ""
    try:
        exec(f"from {module} import {name}", {})
    except ImportError as e:
        error = str(e)
    places = set(re.findall(r"aegis_core(?:\.\w+)+", error)) - {module, f"{module}.{name}"}
    assert not error or [place for place in places if is_there(place)], error
