"""Links of reissued cards: whose payments a newer number brings, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis_core.errors import AegisError, ColumnError, InputError
from aegis_core.intake import import_files
from aegis_core.intake.links import Linked, import_links, known_links, link
from aegis_core.store import Store, audit, connect


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = connect(tmp_path / "aegis.duckdb")
    paid(store, tmp_path, "t1,old,2026-04-12,5\nt2,new,2026-04-13,6\n")
    return store


def paid(store: Store, folder: Path, rows: str, names: str = "") -> Any:
    path = folder / "paid.csv"
    path.write_text(f"transaction_id,customer_id,ts,amount{names}\n{rows}")
    return import_files([path], store, progress=False)


def whose(store: Store) -> dict[str, tuple[str, str | None]]:
    rows = store.rows("SELECT transaction_id AS id, customer_id AS c, card_id FROM transactions")
    return {row["id"]: (row["c"], row["card_id"]) for row in rows}


def pairs(store: Store) -> set[tuple[str, str]]:
    return {(row["customer_id"], row["replaces"]) for row in known_links(store)}


def test_what_comes_under_a_linked_number_is_kept_under_its_customer(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "links.csv").write_text("replaces, customer_id\nold , new\n")
    told = import_links(store, tmp_path / "links.csv", who="anna")
    assert told == Linked(1, 1)
    assert "1 payments that came under the newer numbers before stay" in told.sentence()
    paid(
        store, tmp_path, "t3,new,2026-04-14,7,\nt4,new,2026-04-14,7,k9\nt5,old,2026-04-15,1,\n",
        ",card_id",
    )  # fmt: skip
    assert whose(store) == {
        "t1": ("old", None), "t2": ("new", None), "t3": ("old", "new"), "t4": ("old", "k9"),
        "t5": ("old", None),
    }  # fmt: skip
    (row,) = known_links(store)
    assert (row["who"], row["source"]) == ("anna", "links.csv")
    assert import_links(store, tmp_path / "links.csv") == Linked(0, 0), "nothing new"
    with store.reading() as session:
        assert [e.who for e in audit.entries(session) if e.action == "links"] == ["anna"]


def test_what_came_before_its_link_and_comes_again_is_no_conflict(
    store: Store, tmp_path: Path
) -> None:
    link(store, [("new", "old"), ("newest", "new")], "test", who="anna")
    again = paid(store, tmp_path, "t1,old,2026-04-12,5\nt2,new,2026-04-13,6\n")
    assert (again.already_there, again.rejected) == (2, {})
    twice = paid(store, tmp_path, "t3,new,2026-04-14,7,\nt3,old,2026-04-14,7,new\n", ",card_id")
    assert (twice.accepted, twice.already_there) == (1, 1), "one file against itself"
    other = paid(store, tmp_path, "t2,stranger,2026-04-13,6\n")
    assert sum(other.rejected.values()) == 1


def test_an_id_made_of_a_row_stays_the_same_after_its_link(tmp_path: Path) -> None:
    store, path = connect(tmp_path / "aegis.duckdb"), tmp_path / "paid.csv"
    path.write_text("customer_id,ts,amount\nnew,2026-04-12,5\n")
    import_files([path], store, progress=False)
    link(store, [("new", "old")], "test", who="anna")
    assert import_files([path], store, progress=False).already_there == 1


def test_a_chain_goes_back_to_its_first_in_any_order(store: Store) -> None:
    link(store, [("d", "c"), ("c", "b")], "test", who="anna")
    link(store, [("b", "a")], "test", who="anna")
    assert pairs(store) == {("b", "a"), ("c", "a"), ("d", "a")}
    assert link(store, [("d", "c"), ("d", "a"), ("b", "a")], "test", who="anna") == Linked(0, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("c", "b"), ("x", "x")], "Row 2: 'x' cannot replace itself"),
        ([("c", "b"), ("a", "c")], "cannot replace 'c', which goes back to 'a'"),
        ([("c", "b"), ("b", "z")], "'b' replaces 'a' already, and not 'z' as well"),
        ([("c", "b"), ("c", "z")], "'c' replaces 'a' already"),
        ([("c", "b"), (" ", "z")], "a number, beside 'z', is missing"),
        ([("c", "b"), ("d", "4.1E+15")], "looks damaged"),
        ([("c", "b"), ("d", "x" * 201)], "longer than 200"),
        ([("c", "b"), ("d\n", "x")], "control character"),
    ],
)
def test_one_bad_link_refuses_all(store: Store, given: list[tuple[str, str]], said: str) -> None:
    link(store, [("b", "a")], "test", who="anna")
    with pytest.raises(InputError, match=said):
        link(store, given, "test", who="anna")
    assert pairs(store) == {("b", "a")}


@pytest.mark.parametrize(
    "text", ["card,payee\n1,2\n", "", "customer_id,replaces\n1,2,3\n4,5\n6\n,"]
)
def test_a_file_without_links_says_what_links_are(store: Store, tmp_path: Path, text: str) -> None:
    (tmp_path / "links.csv").write_text(text)
    with pytest.raises(AegisError) as refused:
        import_links(store, tmp_path / "links.csv")
    if isinstance(refused.value, ColumnError):
        assert "replaces, the one that it replaces" in str(refused.value)
    assert pairs(store) == set()
