"""Errors, vocabulary and settings: what every other module leans on."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aegis_core import config, errors, schema
from aegis_core.config import Settings, load
from aegis_core.errors import AegisError, InputError, did_you_mean
from aegis_core.schema import FACTORS, TABLES, TOLD_FACTORS, Decision

ERRORS = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, AegisError)]


@pytest.fixture(autouse=True)
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the checkout's `aegis.toml` would be; no setting comes from the outside."""
    for name in [n for n in os.environ if n.startswith("AEGIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(config, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout" / "aegis.toml"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_stands_in_the_tree_at_the_top(error: type[AegisError]) -> None:
    assert errors.__doc__ is not None
    depth = len(error.__mro__) - len(AegisError.__mro__)
    drawn = re.search(rf"^(.*)\b{error.__name__}\b(  |$)", errors.__doc__, re.MULTILINE)
    assert drawn is not None
    assert len(drawn[1]) == 4 * depth


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_keeps_its_sentence_and_ends_the_command(error: type[AegisError]) -> None:
    assert str(error("transactions lacks ['ts'].")) == "transactions lacks ['ts']."
    assert error.exit_code in (1, 2, 3, 4, 5)
    assert error.__doc__


def test_wrong_input_ends_with_2() -> None:
    assert {e.exit_code for e in ERRORS if issubclass(e, InputError)} == {2}


@settings(deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=5))
def test_only_known_names_are_offered(word: str, known: list[str]) -> None:
    offer = did_you_mean(word, known)
    assert offer == "" or offer.startswith(" Did you mean ")
    if word in known:
        assert word in offer


def test_the_closest_name_comes_first() -> None:
    known = ("customer_id", "custom", "merchant_id")
    assert did_you_mean("customerid", known).startswith(" Did you mean customer_id")
    assert did_you_mean("zzz", known) == ""


# --- schema --------------------------------------------------------------------------------------


def test_decisions_are_in_order_of_severity() -> None:
    assert [d.label for d in sorted(Decision)] == ["approve", "review", "block"]
    assert Decision.BLOCK > Decision.REVIEW > Decision.APPROVE == 0


def test_the_table_of_transactions_has_the_columns_that_are_promised() -> None:
    columns = [part.split()[:2] for part in TABLES["transactions"].split(",")]
    assert columns == [[name, kind] for name, kind in schema.TRANSACTION_COLUMNS.items()]
    assert set(schema.REQUIRED) <= set(schema.TRANSACTION_COLUMNS)
    for part in TABLES["transactions"].split(","):
        never_null = part.split()[0] in (*schema.REQUIRED, "seq", "transaction_id")
        assert never_null == ("NOT NULL" in part or "PRIMARY KEY" in part)


def test_every_factor_has_its_place_in_a_verdict() -> None:
    for column, factors in (("evidence", FACTORS), ("contributions", TOLD_FACTORS)):
        struct = f"STRUCT({', '.join(f'{f} DOUBLE' for f in factors)})"
        assert f"{column} {struct}" in TABLES["verdicts"]


# --- settings ------------------------------------------------------------------------------------


def test_without_a_word_the_defaults_hold(toml: Path) -> None:
    settings = load()
    assert settings.home == toml.parent
    assert settings.db == toml.parent / "data" / "aegis.duckdb"
    assert (settings.alert_budget, settings.block_share, settings.seed) == (0.005, 0.2, 0)


def test_an_argument_goes_before_a_variable_and_this_before_the_file(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml.write_text("seed = 1\nblock_share = 0.1\nalert_budget = 0.1\n")
    monkeypatch.setenv("AEGIS_SEED", "2")
    monkeypatch.setenv("AEGIS_BLOCK_SHARE", "0.2")
    settings = load(seed=3)
    assert (settings.seed, settings.block_share, settings.alert_budget) == (3, 0.2, 0.1)


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_empty_counts_as_not_given(nothing: object) -> None:
    assert load(db=nothing, seed=nothing) == load()


def test_zero_counts_as_given() -> None:
    assert load(block_share=0).block_share == 0
    assert load(label_delay_days=0.0).label_delay_days == 0


def test_relative_paths_count_from_home(tmp_path: Path) -> None:
    settings = load(home=tmp_path, db="here.duckdb", models=Path("m"))
    assert settings.db == tmp_path / "here.duckdb"
    assert settings.models == tmp_path / "m"
    assert settings.reports == tmp_path / "reports"
    assert load(home=tmp_path, db="/elsewhere/a.duckdb").db == Path("/elsewhere/a.duckdb")


def test_no_path_depends_on_the_folder_of_a_later_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEGIS_HOME", "work")
    settings = load()
    assert settings.home == tmp_path / "work"
    assert settings.db == tmp_path / "work" / "data" / "aegis.duckdb"


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(db="~/fraud.duckdb").db == tmp_path / "fraud.duckdb"
    assert load(home="~/aegis").reports == tmp_path / "aegis" / "reports"


def test_settings_do_not_change() -> None:
    settings = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("alert_budget", v) for v in (0, 1, -0.1, 7, "much", float("nan"), [])),
        *(("block_share", v) for v in (-0.1, 1.1, float("nan"))),
        *(("label_delay_days", v) for v in (-1, float("nan"))),
        *(("seed", v) for v in (-1, 1.5, "x")),
        ("db", 3),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError) as e:
        load(**{name: value})
    assert name in str(e.value)
    assert repr(value) in str(e.value)


def test_a_home_s_own_file_goes_before_the_checkout_s(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml.write_text("seed = 1\n")
    home = tmp_path / "home"
    home.mkdir()
    assert load(home=home).seed == 1
    (home / "aegis.toml").write_text("seed = 2\n[schedule.n]\ncron = '0 1 * * *'\nverify='train'")
    assert load(home=home).seed == 2
    assert load().seed == 1
    monkeypatch.setenv("AEGIS_HOME", str(home))
    assert load().seed == 2
    assert list(load().schedule) == ["n"]
    (home / "aegis.toml").write_text("seed = ")
    with pytest.raises(InputError, match=re.escape(str(home / "aegis.toml"))):
        load()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who installed a wheel."""
    monkeypatch.setattr(config, "CHECKOUT", None)
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_outside_of_a_checkout_the_home_is_the_current_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load()
    assert settings.home == installed
    assert settings.models == installed / "data" / "models"
    monkeypatch.chdir(tmp_path)
    assert settings.reports == installed / "reports"
    assert load().home == tmp_path


def test_outside_of_a_checkout_a_home_without_aegis_toml_has_none(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / "aegis.toml").write_text("seed = 3")
    assert load().seed == 3
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    assert load().seed == 0


def test_a_current_folder_that_was_removed_is_said_so(installed: Path, tmp_path: Path) -> None:
    installed.rmdir()
    with pytest.raises(InputError, match=r"not there any more.*AEGIS_HOME"):
        load()
    assert load(home=tmp_path).home == tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kep_days = 3", "kep_days: there is no such setting. Did you mean keep_days"),
        ("[schedule.a]\nnotebok='x'\ncron=''", "schedule.a.notebok: there is no such setting. Did"),
        ("[[notify]]\nname='a'\nwhat='run'\nto=['env:X']", 'what: write a list, such as ["run"'),
        (
            "[[notify]]\nname='a'\nwhat=['run']\nto=['env:X']\nquiet='07:00-07:00'",
            "the two times are the same, so that no hour would be quiet",
        ),
    ],
)
def test_a_slip_in_the_file_gets_a_word_of_help(toml: Path, text: str, told: str) -> None:
    toml.write_text(text)
    with pytest.raises(InputError, match=re.escape(told)):
        load()


@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
@pytest.mark.parametrize(
    "line",
    [
        *("alert_budget = {}", "label_delay_days = {}", "keep_days = {}"),
        "[schedule.a]\ncron='0 2 * * *'\nnotebook='drift'\ntimeout={}",
        "[schedule.a]\ncron='0 2 * * *'\nnotebook='drift'\n[schedule.a.parameters]\nx={}",
    ],
)
def test_what_is_no_finite_number_is_refused(toml: Path, line: str, value: str) -> None:
    toml.write_text(line.format(value))
    with pytest.raises(InputError, match="The settings are not usable"):
        load()


def test_an_unknown_name_is_named(toml: Path) -> None:
    with pytest.raises(InputError, match="alert_bugdet"):
        load(alert_bugdet=0.1)
    toml.write_text("alert_bugdet = 0.1\n")
    with pytest.raises(InputError, match="alert_bugdet"):
        load()


@pytest.mark.parametrize("text", ["db = ", "[", "\xff", "a = 1\na = 2", "\0"])
def test_a_file_that_is_no_toml_is_said_so(toml: Path, text: str) -> None:
    toml.write_text(text, "latin-1")
    with pytest.raises(InputError, match=r"aegis\.toml cannot be read: .* Mend it"):
        load()


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith(".")
