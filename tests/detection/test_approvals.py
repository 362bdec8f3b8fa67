"""Promotion by two people, and what they are shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.config import Settings
from aegis_core.detection import approvals, registry
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, NotReady
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, audit, connect

N_SCORED = 228


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two forests, the second champion and the first in shadow; both scored."""
    home = tmp_path_factory.mktemp("two-models")
    settings = config.load(home=home)
    store = connect(settings.db)
    some = SyntheticConfig(n_transactions=3_000, n_customers=40, days=10)
    write_history(store, some, progress=False)
    first, _ = (
        train(
            store,
            settings.model_copy(update={"seed": i}),
            Recipe(role="champion", n_trees=10, max_samples=64),
        ).version
        for i in (1, 2)
    )
    registry.promote(store, settings, first, who="train", role="shadow")
    last = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    rows, labels = next(iter(stream(some, 400, after=last, fraud_multiplier=20)))
    with Engine.open(store, settings) as engine:
        assert len(engine.take(rows, "test", labels)) == N_SCORED
    return home


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> Settings:
    shutil.copytree(made, tmp_path / "home")
    return config.load(home=tmp_path / "home", require_approval=True)


@pytest.fixture
def store(settings: Settings) -> Store:
    return connect(settings.db)


@pytest.fixture
def versions(store: Store) -> tuple[str, str]:
    """The champion, and the one in shadow."""
    champion, (shadow,) = registry.roles(store)
    return champion, shadow


def test_a_second_person_makes_the_proposed_model_champion(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    champion, challenger = versions
    proposal = approvals.nominate(store, settings, challenger, who="Anna", why="fewer alerts")
    assert registry.roles(store)[0] == champion
    assert approvals.open_proposals(store) == [proposal]
    told = json.loads(proposal.comparison)
    assert told["figures"]["challenger"]["transactions"] == N_SCORED
    assert "average precision" in told["told"] or "No fraud" in told["told"]
    assert "NaN" not in proposal.comparison
    assert "the champion now" in approvals.approve(store, settings, proposal.proposal_id, who="ben")
    assert registry.roles(store)[0] == challenger
    assert approvals.open_proposals(store) == []
    rows = audit.entries(store)[-3:]
    assert [(e.who, e.action, e.subject) for e in rows] == [
        ("Anna", "propose", challenger),
        ("ben", "approve", challenger),
        ("ben", "promote", challenger),
    ]
    assert json.loads(rows[0].details)["comparison"] == told
    assert audit.verify(store).problem is None


@pytest.mark.parametrize("who", ["Anna", " anna ", "ANNA"])
def test_the_person_who_proposed_cannot_approve(
    store: Store, settings: Settings, versions: tuple[str, str], who: str
) -> None:
    proposal = approvals.nominate(store, settings, versions[1], who="anna")
    with pytest.raises(InputError, match="somebody else"):
        approvals.approve(store, settings, proposal.proposal_id, who=who)
    assert registry.roles(store)[0] == versions[0]
    assert approvals.open_proposals(store) == [proposal]


def test_no_other_way_leads_to_a_new_champion(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    with pytest.raises(InputError, match="aegis models propose"):
        registry.promote(store, settings, versions[1], who="anna", require_approval=True)
    with pytest.raises(InputError, match="require_approval"):
        train(store, settings, Recipe(role="champion"))
    found = registry.load(store, versions[1], settings)
    with pytest.raises(InputError, match="second person"):
        registry.register(
            store, settings, "sneaky", found.model, found.policy, role="champion", who="train"
        )
    assert train(store, settings, Recipe(n_trees=10, max_samples=64)).role == "shadow"
    assert registry.roles(store)[0] == versions[0]


def test_one_person_may_go_back_to_a_former_champion_and_the_audit_says_who(
    store: Store,
    settings: Settings,
    versions: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    monkeypatch.setenv("AEGIS_REQUIRE_APPROVAL", "true")
    assert main(["models", "rollback", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "One person may" in told
    assert "require_approval" in told
    kept = settings.models / versions[1] / "policy.json"
    policy = kept.read_text()
    kept.unlink()
    assert main(["models", "rollback", "--who", "eva"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    kept.write_text(policy)
    assert main(["models", "rollback", "--who", "eva"]) == 0
    assert registry.roles(store)[0] == versions[1]
    last = audit.entries(store)[-1]
    assert (last.who, last.action, last.subject) == ("eva", "rollback", versions[1])


def test_a_training_in_between_does_not_slip_another_model_in(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    proposal = approvals.nominate(store, settings, versions[1], who="anna")
    # takes the shadow's place
    newer = train(store, settings, Recipe(n_trees=10, max_samples=64)).version
    assert newer not in versions
    approvals.approve(store, settings, proposal.proposal_id, who="ben")
    assert registry.roles(store)[0] == versions[1]


def test_files_that_are_not_those_proposed_are_refused(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    proposal = approvals.nominate(store, settings, versions[1], who="anna")
    other, ours = settings.models / versions[0], settings.models / versions[1]
    shutil.copytree(other, ours, dirs_exist_ok=True)
    with pytest.raises(NotReady, match="are not those"):
        approvals.approve(store, settings, proposal.proposal_id, who="ben")
    assert registry.roles(store)[0] == versions[0]


def test_an_approval_is_of_the_comparison_with_the_present_champion(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    champion, challenger = versions
    proposal = approvals.nominate(store, settings, challenger, who="anna")
    registry.rollback(store, settings, who="eva")  # there was one before: the challenger itself
    registry.promote(store, settings, champion, who="eva")
    approvals.reject(store, proposal.proposal_id, who="anna")
    first = approvals.nominate(store, settings, challenger, who="anna")
    registry.rollback(store, settings, who="eva")
    with pytest.raises(NotReady, match="Propose anew"):
        approvals.approve(store, settings, first.proposal_id, who="ben")


def test_a_proposal_for_the_place_of_a_former_champion_is_shown_as_outdated(
    store: Store,
    settings: Settings,
    versions: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    challenger = versions[1]
    proposal = approvals.nominate(store, settings, challenger, who="anna")
    assert main(["models"]) == 0
    assert "Outdated" not in capsys.readouterr().out
    other = train(store, settings, Recipe(n_trees=10, max_samples=64)).version
    registry.promote(store, settings, other, who="eva")
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert f"Outdated: the champion is {other} by now, so it cannot be approved." in told
    assert f"`aegis models propose {challenger}` compares it anew" in told
    assert f"`aegis models reject {proposal.proposal_id}` closes it." in told
    assert "propose" not in proposal.sentences(challenger)[-1], "it leads already"
    anew = approvals.nominate(store, settings, challenger, who="anna")
    assert approvals.open_proposals(store) == [anew]
    assert main(["models"]) == 0
    assert "Outdated" not in capsys.readouterr().out


def test_a_proposal_is_decided_once(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    proposal = approvals.nominate(store, settings, versions[1], who="anna")
    with pytest.raises(InputError, match="proposed already"):
        approvals.nominate(store, settings, versions[1], who="eva")
    approvals.reject(store, proposal.proposal_id, who="ben", note="too few frauds")
    for again in (
        lambda: approvals.approve(store, settings, proposal.proposal_id, who="ben"),
        lambda: approvals.reject(store, proposal.proposal_id, who="ben"),
    ):
        with pytest.raises(InputError, match="rejected by ben"):
            again()
    with pytest.raises(InputError, match="no proposal"):
        approvals.approve(store, settings, "unknown", who="ben")


def test_what_cannot_be_proposed_is_refused(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    for version, who, told in (
        (versions[0], "anna", "champion already"),
        ("unknown", "anna", "no model"),
        (versions[1], " ", "Say who"),
    ):
        with pytest.raises(InputError, match=told):
            approvals.nominate(store, settings, version, who=who)


def test_a_dossier_tells_policy_run_and_data(
    store: Store, settings: Settings, versions: tuple[str, str]
) -> None:
    found = approvals.dossier(store, settings, versions[0])
    assert found["model"]["role"] == "champion"
    assert found["model"]["data_hash"]
    assert found["parameters"]["n_trees"] == 10
    assert found["policy"]["alert_budget"] == settings.alert_budget
    assert found["verdicts"] == N_SCORED
    assert found["run"] is None
    assert [row["action"] for row in found["history"]] == ["register", "promote"]


def test_the_command_shows_proposes_and_approves(
    store: Store,
    settings: Settings,
    versions: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    monkeypatch.setenv("AEGIS_REQUIRE_APPROVAL", "true")
    assert main(["models", "promote", versions[1], "--who", "anna"]) == 2
    assert "second person" in capsys.readouterr().err
    assert main(["models", "propose", versions[1], "--who", "anna", "--why", "better"]) == 0
    proposal_id = capsys.readouterr().out.split(":")[0]
    assert main(["models"]) == 0
    assert f"proposed {proposal_id}" in capsys.readouterr().out
    assert main(["models", "approve", proposal_id, "--who", "anna"]) == 2
    assert main(["models", "approve", proposal_id, "--who", "ben"]) == 0
    assert main(["models", "show", versions[1]]) == 0
    told = capsys.readouterr().out
    for word in ("review_above", "data_hash", "approve", "ben", "none is recorded"):
        assert word in told
    assert main(["models", "show", versions[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["role"] == "champion"
    assert main(["models", "reject", "unknown"]) == 2
