"""Laws of lineage and verification: every number leads to its data, and comes out again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.detection import retention
from aegis_core.errors import InputError, NotVerifiable, RunFailed
from aegis_core.review import cases
from aegis_core.runs import lineage, notebooks, parameters, verify
from aegis_core.store import Store, connect

SMALL = {
    **{"n_transactions": 3_000, "n_customers": 60, "n_merchants": 30, "days": 30},
    "rate_spike": 0.02,  # so that one week has frauds enough to judge by
}
GIVEN = {
    "generate": SMALL,
    "train": {"n_trees": 10},
    "evaluate": {"folds": 1, "k": 10},
    "price": {"folds": 1},
    "simulate": {"n_transactions": 300, "fraud_multiplier": 20.0},
    "start": {},
    "review": {},
    "drift": {"sample": 50},
}
N = SMALL["n_transactions"] + 300
IN_ONE_PROCESS = """
import io, json, os, sys
from contextlib import redirect_stdout
from pathlib import Path
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_output
from aegis_core import config
from aegis_core.review import cases
from aegis_core.runs import execution, notebooks
from aegis_core.store import connect

class Told(io.StringIO):
    def write(self, text):
        if not (outputs and outputs[-1].output_type == "stream"):
            outputs.append(new_output("stream"))
        outputs[-1].text += text

def publish(data, *args, **more):
    outputs.append(new_output("display_data", data=data))

def result(value):
    if value is not None:
        publish(InteractiveShell.instance().display_formatter.format(value)[0])

def execute(notebook, executed, parameters, settings, *, watch, deadline=None, bar=None):
    global outputs
    os.environ.update(notebooks._environment(settings))
    InteractiveShell.clear_instance()
    shell, whole = InteractiveShell.instance(), nbformat.read(notebook, as_version=4)
    shell.display_pub.publish, shell.display_trap.hook = publish, result
    for cell in whole.cells:
        if cell.cell_type == "code":
            outputs = cell.outputs = []
            with redirect_stdout(Told()):
                shell.run_cell(cell.source).raise_error()
            if "parameters" in cell.metadata.get("tags", ()):
                shell.user_ns.update(parameters)
            watch.ended(cell)
        watch.done(cell)
    nbformat.write(whole, executed)

InteractiveShell.kernel = None  # as in a kernel, or pandas shows tables as in a terminal
notebooks.execute = execute
home, db, reports, given = sys.argv[1:]
settings = config.load(home=Path(home), db=db, reports=reports)
for name, given in json.loads(given).items():
    execution.run_notebook(name, given, settings, progress=False)
    if name == "simulate":
        store = connect(settings.db)
        first, second, *_ = cases.queue(store).cases
        cases.answer_case(store, first["case_id"], "fraud", analyst="ben", hold_s=0)
        cases.claim(store, "anna", second["case_id"])
"""


def run(settings: config.Settings, given: dict[str, dict[str, object]]) -> None:
    """Run notebooks in one process for all; what a kernel of its own adds is in the verification.

    After a simulation the queue is worked on.
    """
    folders = map(str, (settings.home, settings.db, settings.reports))
    command = [sys.executable, "-c", IN_ONE_PROCESS, *folders, json.dumps(given)]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4_000:]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Settings:
    """A run of every notebook, with a queue that is worked on; then more data and more answers."""
    settings = config.load(home=tmp_path_factory.mktemp("verify"))
    run(settings, GIVEN)
    store = connect(settings.db)
    ((second,),) = (r.values() for r in store.rows("SELECT case_id FROM claims"))
    cases.answer_case(store, second, "legitimate", analyst="anna", hold_s=0)
    with store.writing() as session:
        session.execute(
            f"INSERT INTO transactions SELECT * REPLACE (seq + {N} AS seq, "
            "transaction_id || '+' AS transaction_id, ts + INTERVAL 30 DAY AS ts) "
            "FROM transactions WHERE seq < 100"
        )
        session.execute(
            "INSERT INTO labels SELECT * REPLACE (NOT is_fraud AS is_fraud) FROM labels LIMIT 9"
        )
    return settings


def run_of(store: Store, notebook: str) -> str:
    rows = store.rows("SELECT run_id FROM runs WHERE notebook = ? ORDER BY started_at", [notebook])
    return str(rows[0]["run_id"])


@pytest.fixture
def copy(settings: config.Settings, tmp_path: Path) -> config.Settings:
    """The same with a database of its own, to be spoilt."""
    shutil.copy(settings.db, tmp_path / "copy.duckdb")
    return settings.model_copy(
        update={"db": tmp_path / "copy.duckdb", "reports": tmp_path / "reports"}
    )


# `train` comes out again below, but for the one number that is spoilt there
@pytest.mark.parametrize("name", [name for name in parameters.NOTEBOOKS if name != "train"])
def test_a_run_comes_out_again_to_the_last_digit_after_more_data_arrived(
    settings: config.Settings, name: str
) -> None:
    found = verify.verify(name, settings, progress=False)
    assert list(found.lines()) == [f"{found.of}: all {found.compared:,} numbers came out the same."]
    assert found.compared > 50
    store = connect(settings.db)
    (row,) = store.rows("SELECT * FROM runs WHERE run_id = ?", [found.run_id])
    assert (row["notebook"], row["status"], row["error"]) == ("verify", "done", None)
    assert json.loads(row["parameters"]) == {"run": run_of(store, name)}
    assert Path(row["report_path"]).exists()
    assert "verified" in "".join(lineage.told(lineage.chain(store, found.of)))


def test_after_a_forgetting_new_runs_come_out_again_and_older_ones_say_why_not(
    copy: config.Settings,
) -> None:
    store = connect(copy.db)
    with store.writing() as session:
        session.execute("UPDATE transactions SET ts = ts - INTERVAL 200 DAY WHERE seq < 500")
    retention.forget(store, retention.plan(store, 90.0), who="anna")
    assert store.rows("SELECT min(seq) AS first FROM transactions") == [{"first": 500}]
    with pytest.raises(NotVerifiable, match="data of now"):
        verify.verify("train", copy)
    run(copy, {name: GIVEN[name] for name in ("drift", "train")})
    assert verify.verify("drift", copy, progress=False).differences == ()
    assert verify.verify("train", copy, progress=False).differences == ()


def test_sigterm_ends_a_verification_in_order(
    copy: config.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(verify, "_rebuild", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        verify.verify("train", copy, progress=False)
    row = connect(copy.db).rows("SELECT * FROM runs ORDER BY started_at")[-1]
    assert (row["notebook"], row["status"]) == ("verify", "interrupted")
    assert not list(tmp_path.glob("aegis-verify-*"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_each_number_that_differs_is_told_and_fails_the_verification(
    copy: config.Settings,
) -> None:
    store = connect(copy.db)
    with store.writing() as session:
        session.execute("UPDATE metrics SET value = value + 1 WHERE name = 'n_train'")
    found = verify.verify("train", copy, progress=False)
    (difference,) = found.differences
    assert difference.where == "metric n_train window"
    assert difference.then == difference.now + 1  # type: ignore[operator]
    assert "1 of " in next(line for line in found.lines() if "DIFFER" in line)
    (row,) = store.rows("SELECT * FROM runs WHERE run_id = ?", [found.run_id])
    assert row["status"] == "failed"
    assert "metric n_train window" in row["error"]
    assert "cleared away" in "".join(found.notes)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("UPDATE transactions SET amount = amount + 1 WHERE seq = 7", "data of now"),
        ("DELETE FROM labels WHERE is_fraud", "data of now"),
        ("UPDATE runs SET last_seq = NULL", "did not keep what it saw"),
        ("""UPDATE runs SET parameters = '{"target": "http://x"}'""", "sent its transactions"),
    ],
)
def test_what_cannot_be_rebuilt_is_said_before_anything_is_executed(
    copy: config.Settings, spoil: str, told: str
) -> None:
    store = connect(copy.db)
    with store.writing() as session:
        session.execute(spoil)
    with pytest.raises(NotVerifiable, match=told) as error:
        verify.verify("train", copy)
    assert error.value.exit_code == 4
    row = store.rows("SELECT * FROM runs WHERE notebook = 'verify' ORDER BY started_at")[-1]
    assert (row["status"], row["error"]) == ("failed", str(error.value))


def test_a_notebook_that_fails_now_leaves_its_report(
    copy: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: object, **__: object) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(notebooks, "execute", execute)
    with pytest.raises(RunFailed, match="train fails now: OSError: the disk went away"):
        verify.verify("train", copy, progress=False)
    row = connect(copy.db).rows("SELECT * FROM runs ORDER BY started_at")[-1]
    assert row["status"] == "failed"
    assert "the disk went away" in Path(row["report_path"]).read_text()


def test_a_model_that_is_gone_is_said(copy: config.Settings) -> None:
    with connect(copy.db).writing() as session:
        session.execute("UPDATE models SET run_id = NULL, path = 'nowhere'")
    with pytest.raises(NotVerifiable, match=r"files of the model .* are gone"):
        verify.verify("train", copy)


def test_only_a_run_that_is_done_is_verified(copy: config.Settings) -> None:
    store = connect(copy.db)
    run = run_of(store, "train")
    with store.writing() as session:
        session.execute("DELETE FROM runs WHERE notebook = 'simulate'")
    with pytest.raises(InputError, match="no run 'simulate'"):
        verify.verify("simulate", copy)
    with store.writing() as session:
        session.execute("UPDATE runs SET status = 'failed' WHERE run_id = ?", [run])
    with pytest.raises(InputError, match="is failed; only a run that is done"):
        verify.verify(run, copy)
    with pytest.raises(InputError, match=f"Did you mean {run_of(store, 'evaluate')}"):
        verify.verify(run_of(store, "evaluate") + "x", copy)


def test_durations_and_names_of_runs_are_no_numbers_to_compare(tmp_path: Path) -> None:
    text = "20260301-120000-1a2b3c: 12,345 rows in 3.2 s (99 a second), 7.5 % of /tmp/a1, -1e-3"
    figure = {
        "data": [{"y": {"dtype": "f8", "bdata": "AAAA"}, "x": [1, 2]}],
        "layout": {"width": 7},
    }
    cells = [
        {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [{"text": [text]}]},
        {"cell_type": "code", "id": "b", "metadata": {}, "outputs": [
            {"data": {"application/vnd.plotly.v1+json": figure}},
            {"name": "stderr", "text": "42"},
        ]},
        {"cell_type": "code", "id": "c", "metadata": {"tags": ["injected-parameters"]},
         "outputs": [{"text": "43"}]},
    ]  # fmt: skip
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert list(verify.printed(path, "/tmp/a1").items())[:3] == [
        ("cell a, number 1", "12,345"),
        ("cell a, number 2", "7.5"),
        ("cell a, number 3", "-1e-3"),
    ]
    assert [key for key in verify.printed(path) if key.startswith("cell b")] == [
        "cell b, figure 1.data[0].y.bdata",
        "cell b, figure 1.data[0].x[0]",
        "cell b, figure 1.data[0].x[1]",
        "cell b, figure 1.layout.width",
    ]


# --- lineage -----------------------------------------------------------------------------------


def test_a_metric_leads_to_run_notebook_code_and_data(settings: config.Settings) -> None:
    store = connect(settings.db)
    evaluate = run_of(store, "evaluate")
    found = lineage.chain(store, "auc_roc:forest/0")
    assert list(found["metric"]["values"]) == ["forest/0"]
    assert found["run"]["run_id"] == evaluate
    assert found["run"]["parameters"]["folds"] == 1
    assert found["data"]["last_seq"] == 2999
    assert found["data"]["n_labels"] == 3000
    assert found["data"]["first_seen_by"]["notebook"] == "generate"
    assert [s["source"] for s in found["data"]["sources"]] == ["synthetic"]
    told = "\n".join(lineage.told(found))
    for part in (
        evaluate,
        found["run"]["data_hash"],
        lineage.code_version(),
        "folds=1",
        "seed    0",
    ):
        assert part in told


def test_a_model_leads_to_the_run_that_made_it(settings: config.Settings) -> None:
    store = connect(settings.db)
    (model,) = store.rows("SELECT version, run_id FROM models")
    found = lineage.chain(store, model["version"])
    assert found["run"]["run_id"] == model["run_id"] == run_of(store, "train")
    assert found["run"]["model_version"] == model["version"]
    assert lineage.chain(store, model["run_id"])["made"] == [model]


def test_what_has_no_run_says_so_and_a_wrong_name_offers_others(copy: config.Settings) -> None:
    store = connect(copy.db)
    with store.writing() as session:
        session.execute("UPDATE models SET run_id = NULL")
    (model,) = store.rows("SELECT version FROM models")
    assert "not made by a run" in "".join(lineage.told(lineage.chain(store, model["version"])))
    with pytest.raises(InputError, match="Did you mean average_precision"):
        lineage.chain(store, "average_precison")


def test_the_hash_of_what_was_seen_is_that_of_now_as_long_as_nothing_came(
    copy: config.Settings,
) -> None:
    store = connect(copy.db)
    now = lineage.seen(store)
    n_labels = store.rows("SELECT count(*) AS n FROM labels")[0]["n"]
    assert now[:3] == (store.data_hash(), N + 99, n_labels)
    then = lineage.seen(store, 2999, 3000)
    assert then.data_hash != now.data_hash
    with store.writing() as session:
        session.execute("DELETE FROM transactions WHERE seq > 2999")
        session.execute("DELETE FROM labels WHERE rowid >= 3000")
    assert lineage.seen(store)[:3] == then[:3]
    assert lineage.seen(store, float("nan"), 0).last_seq == -1


def test_the_command_line_prints_chains_and_compares(
    copy: config.Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["lineage", "average_precision:forest/0", "--db", str(copy.db)]) == 0
    assert capsys.readouterr().out.startswith("average_precision forest/0 = 0.")
    assert main(["lineage", "average_precision", "--json", "--db", str(copy.db)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["notebook"] == "evaluate"
    for differences, code in (((), 0), ((verify.Difference("x", 1, 2),), 1)):
        result = verify.Verification("r", 3, differences, (), "v")
        monkeypatch.setattr(verify, "verify", lambda *_, result=result: result)
        assert main(["verify", "train", "--db", str(copy.db)]) == code
    told = capsys.readouterr().out
    assert "all 3 numbers came out the same" in told
    assert "x: 1 then, 2 now" in told


def test_a_notebook_s_hash_is_of_its_sources_alone(tmp_path: Path) -> None:
    path = parameters.NOTEBOOKS["start"]
    facts = json.loads(path.read_text("utf-8"))
    facts["cells"][0]["metadata"]["x"] = facts["metadata"]["x"] = 1
    again = tmp_path / "again.ipynb"
    again.write_text(json.dumps(facts))
    assert notebooks.content_hash(again) == notebooks.content_hash(path)
    facts["cells"][0]["source"] = ["# Another?"]
    again.write_text(json.dumps(facts))
    assert notebooks.content_hash(again) != notebooks.content_hash(path)
