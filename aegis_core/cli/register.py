"""Commands that say who decides and who may: models, lists, answers, tokens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_core.cli.common import Database, Json, Who, app, example, finite, of_the_group, opened
from aegis_core.cli.output import cell_text, write_document, write_table

if TYPE_CHECKING:
    import pandas as pd

Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `aegis models` lists it.")]
Proposed = Annotated[str, typer.Argument(metavar="PROPOSAL", help="As `aegis models` lists it.")]
Note = Annotated[str, typer.Option(help="Anything worth keeping.")]

models_app = typer.Typer(no_args_is_help=False, help="The register of models.")
_SHOWN_OF_A_MODEL = {
    "metrics": ("name", "slice", "value"),
    "history": ("seq", "recorded_at", "who", "action"),
}
lists_app = typer.Typer(no_args_is_help=False, help="Allow and deny lists, snoozed customers.")
tokens_app = typer.Typer(
    no_args_is_help=True,
    callback=of_the_group,
    help="Who may use the service: score sends transactions, casework answers under its own name "
    "and reads, view reads.",
    epilog=example("aegis tokens add anna --role casework", "aegis tokens list"),
)


@models_app.callback(
    invoke_without_command=True,
    epilog=example(
        "aegis models",
        "aegis run train -p detector learner",
        "aegis models compare",
        "aegis models promote 20260301-120000-1a2b3c --who anna",
        "aegis models rollback",
        "aegis models show 20260301-120000-1a2b3c",
        'aegis models propose 20260301-120000-1a2b3c --who anna --why "fewer false alerts"',
        "aegis models approve 1a2b3c4d --who ben",
    ),
)
def _models(context: typer.Context, db: Database = None) -> None:
    """List the models, or say which of them decides."""
    if context.invoked_subcommand:
        return
    from aegis_core.detection import approvals, registry

    store, _ = opened(db)
    found = registry.listed(store)
    if found.empty:
        print("No model yet; `aegis run train` makes one.")
        return
    shown = ["version", "role", "kind", "n_train", "trained_from", "trained_to", "run_id"]
    for column in ("trained_from", "trained_to"):
        found[column] = found[column].dt.strftime("%Y-%m-%d %H:%M")
    _write_frame(found[shown])
    for proposal in approvals.open_proposals(store):
        print("\nproposed ", end="")
        print(*proposal.sentences(registry.roles(store)[0]), sep="\n")


@models_app.command(epilog=example("aegis models show VERSION", "aegis models show VERSION --json"))
def show(version: Version, as_json: Json = False, db: Database = None) -> None:
    """Show all that is known of a model: policy, run, data, metrics, who did what with it."""
    from aegis_core.detection import approvals

    found = approvals.dossier(*opened(db), version)
    if as_json:
        write_document(found)
        return
    for heading in ("model", "parameters", "policy", "run"):
        for i, (name, value) in enumerate((found[heading] or {"": "none is recorded"}).items()):
            print(f"{'' if i else heading:<12}{name:<14}{cell_text(value)}")
    print(f"{'verdicts':<12}{found['verdicts']:,}")
    for heading, columns in _SHOWN_OF_A_MODEL.items():
        if found[heading]:
            print()
            write_table(list(columns), [tuple(r[c] for c in columns) for r in found[heading]], 0)


@models_app.command(epilog=example("aegis models propose VERSION --who anna"))
def propose(
    version: Version,
    who: Who,
    why: Annotated[str, typer.Option(help="The reason, for who decides.")] = "",
    db: Database = None,
) -> None:
    """Propose a model for champion; somebody else approves it."""
    from aegis_core.detection import approvals

    made = approvals.nominate(*opened(db), version, who=who, why=why)
    print(*made.sentences(made.champion), sep="\n")
    print(f"Somebody else says `aegis models approve {made.proposal_id}`.")


@models_app.command(epilog=example("aegis models approve 1a2b3c4d --who ben"))
def approve(proposal: Proposed, who: Who, note: Note = "", db: Database = None) -> None:
    """Make a proposed model the champion; not by the person who proposed it."""
    from aegis_core.detection import approvals

    print(approvals.approve(*opened(db), proposal, who=who, note=note))


@models_app.command(epilog=example('aegis models reject 1a2b3c4d --note "too many alerts"'))
def reject(proposal: Proposed, who: Who, note: Note = "", db: Database = None) -> None:
    """Close a proposal; the champion stays."""
    from aegis_core.detection import approvals

    closed = approvals.reject(opened(db)[0], proposal, who=who, note=note)
    print(f"{closed.version} was rejected.")


@models_app.command(epilog=example("aegis models compare", "aegis models compare --days 7"))
def compare(
    challenger: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="Else the one that scored last.")
    ] = "",
    days: Annotated[float, typer.Option(min=0, callback=finite, help="So many days back.")] = 30.0,
    db: Database = None,
) -> None:
    """Compare the champion with a challenger on what both scored live."""
    from aegis_core.detection.comparison import compared

    table, told = compared(opened(db)[0], challenger, days)
    _write_frame(table.reset_index(names="model"))
    print(told)


@models_app.command(epilog=example("aegis models promote VERSION --who anna"))
def promote(version: Version, who: Who, db: Database = None) -> None:
    """Make a model the champion: it decides from the next batch on."""
    _assign(version, who, db, "champion")


@models_app.command(epilog=example("aegis models shadow VERSION"))
def shadow(version: Version, who: Who, db: Database = None) -> None:
    """Let a model score beside the champion and decide nothing."""
    _assign(version, who, db, "shadow")


@models_app.command(epilog=example("aegis models retire VERSION"))
def retire(version: Version, who: Who, db: Database = None) -> None:
    """Take a model out of shadow; it stays in the register."""
    _assign(version, who, db, "none")


@models_app.command(epilog=example("aegis models rollback --who anna"))
def rollback(who: Who, db: Database = None) -> None:
    """Go back to the champion before the present one.

    One person may, also where `require_approval` asks for two to promote: it is for an emergency,
    and returns only to a model that was the champion before. The audit keeps who did it.
    """
    from aegis_core.detection import registry

    version = registry.rollback(*opened(db), who=who)
    print(f"{version} is the champion again.")


def _write_frame(frame: pd.DataFrame) -> None:
    rows = frame.astype(object).where(frame.notna(), None)
    write_table(list(rows.columns), rows.itertuples(index=False, name=None), 0)


def _assign(version: str, who: str, db: Database, role: str) -> None:
    from aegis_core.detection import registry

    store, settings = opened(db)
    two = settings.require_approval
    print(registry.promote(store, settings, version, who=who, role=role, require_approval=two))


@lists_app.callback(
    invoke_without_command=True,
    epilog=example(
        "aegis lists",
        'aegis lists add deny m0042 --merchant --why "stolen terminal"',
        'aegis lists add snooze c0007 --until 2026-03-31 --why "travels, she phoned"',
        'aegis lists end 1a2b3c4d --why "card replaced"',
    ),
)
def _lists(context: typer.Context, db: Database = None) -> None:
    """Show who is on which list, until when, by whom and why."""
    if context.invoked_subcommand:
        return
    from aegis_core.review import lists

    entries = lists.current(opened(db)[0])
    if not entries:
        print("Nobody is on a list.")
        return
    names = ["entry_id", "kind", "field", "value", "until", "who", "why"]
    rows = [
        tuple(f"{v:%Y-%m-%d %H:%M}" if n == "until" and v else v for n, v in vars(e).items())[:7]
        for e in entries
    ]
    write_table(names, rows, 0)


@lists_app.command(
    epilog=example('aegis lists add deny c0007 --until 2026-12-31 --why "card stolen"')
)
def add(
    kind: Annotated[str, typer.Argument(help="deny, allow or snooze.")],
    value: Annotated[str, typer.Argument(metavar="ID", help="Of the customer or merchant.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    who: Who,
    merchant: Annotated[
        bool, typer.Option("--merchant", help="The id is a merchant's, not a customer's.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="When it ends (UTC); a snooze needs an end.")
    ] = None,
    db: Database = None,
) -> None:
    """Put a customer or merchant on a list, from the next transaction on."""
    from aegis_core.review import lists

    store, settings = opened(db)
    entry = lists.add(
        store, kind, value, field="merchant" if merchant else "customer", until=until, who=who,
        why=why, most_days=settings.snooze_days,
    )  # fmt: skip
    print(f"{entry.entry_id}: {entry.sentence()}")


@lists_app.command(epilog=example('aegis lists end 1a2b3c4d --why "card replaced"'))
def end(
    entry_id: Annotated[str, typer.Argument(metavar="ENTRY", help="As `aegis lists` shows it.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    who: Who,
    db: Database = None,
) -> None:
    """Take an entry off its list before its time."""
    from aegis_core.review import lists

    entry = lists.end(opened(db)[0], entry_id, who=who, why=why)
    print(f"{entry.field} {entry.value} is off the {entry.kind} list.")


@app.command(
    epilog=example(
        "aegis answer t0000123 fraud --who anna",
        'aegis answer t0000123 legitimate --note "customer called back"',
    )
)
def answer(
    transaction_id: Annotated[str, typer.Argument(metavar="TRANSACTION")],
    said: Annotated[str, typer.Argument(metavar="ANSWER", help="fraud or legitimate.")],
    who: Who,
    note: Note = "",
    db: Database = None,
) -> None:
    """Answer an alert; the answer teaches the next learner."""
    from aegis_core.review import answers

    answers.answer(opened(db)[0], transaction_id, said, analyst=who, note=note)
    print(f"{transaction_id}: {said}, kept.")


@tokens_app.command("list", epilog=example("aegis tokens list"))
def tokens(db: Database = None) -> None:
    """Show who has a token for the service, in which role, since when and from whom."""
    from aegis_core.serving import token

    found = token.given(opened(db)[0].path).values()
    if not found:
        print("Nobody was given a token; the service has its own for scoring.")
        return
    names = ["name", "role", "added_at", "who"]
    write_table(names, [tuple(vars(t)[n] for n in names) for t in found], 0)


@tokens_app.command("add", epilog=example("aegis tokens add anna --role casework"))
def add_token(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the analyst, or of what reads or sends.")
    ],
    role: Annotated[str, typer.Option(help="score, casework or view.")],
    who: Who,
    db: Database = None,
) -> None:
    """Give a token for one role; it is shown once, and a running service knows it at once."""
    from aegis_core.serving import token

    secret = token.add(opened(db)[0], name, role, who=who)
    print(f"The token of {cell_text(name)} for {role}, shown this once:", file=sys.stderr)
    print(secret)


@tokens_app.command("revoke", epilog=example("aegis tokens revoke anna"))
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `aegis tokens list` shows it.")],
    who: Who,
    db: Database = None,
) -> None:
    """Take a token away; a running service knows within a second."""
    from aegis_core.serving import token

    gone = token.revoke(opened(db)[0], name, who=who)
    print(f"{cell_text(gone.name)} has no token any more; it was for {gone.role}.")
