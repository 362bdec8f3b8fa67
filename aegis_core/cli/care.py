"""Commands that look after the data: backup, restore, compact, forget, person, export, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis_core.cli.common import (
    Database,
    Who,
    app,
    bar,
    days,
    example,
    moment,
    opened,
    settings_for,
)
from aegis_core.cli.output import write_table
from aegis_core.errors import InputError

Force = Annotated[bool, typer.Option("--force", help="Also where something is there already.")]

audit_app = typer.Typer(no_args_is_help=False, help="Who changed what, chained by hashes.")


@app.command(epilog=example("aegis backup aegis-2026-03-01.tar", "aegis backup latest.tar --force"))
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The tar file to write.")],
    who: Who,
    force: Force = False,
    db: Database = None,
) -> None:
    """Write database and models into one file, also while a service runs."""
    from aegis_core.store import backup

    store, settings = opened(db)
    with bar("backup") as tell:
        made = backup.backup(store, file, settings, who=who, force=force, tell=tell)
    print(made.sentence())


@app.command(
    epilog=example(
        "aegis restore aegis-2026-03-01.tar --force",
        "aegis restore aegis-2026-03-01.tar --to elsewhere.duckdb",
    )
)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tar file of `aegis backup`.")],
    who: Who,
    to: Annotated[
        Path | None, typer.Option(help="Restore as another database; else over --db.")
    ] = None,
    force: Force = False,
    db: Database = None,
) -> None:
    """Put a backup in place, after all of it was checked; what was there is kept."""
    from aegis_core.store import backup

    done = backup.restore(file, settings_for(db), to=to, who=who, force=force)
    print(done.sentence())


@app.command(epilog=example("aegis compact"))
def compact(who: Who, db: Database = None) -> None:
    """Give back the space of what was deleted; no service may run."""
    from aegis_core.store import compaction

    with bar("compact") as tell:
        done = compaction.compact(opened(db)[0], who=who, tell=tell)
    print(done.sentence())


@app.command(
    epilog=example(
        "aegis forget --older-than 400d --yes --who anna", "aegis forget --rejected --yes"
    )
)
def forget(
    who: Who,
    older_than: Annotated[str, typer.Option(help="Age: 400d, 60w.")] = "",
    refused: Annotated[
        bool, typer.Option("--rejected", help="Instead: every refused row that is kept.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only say what would go.")] = False,
    db: Database = None,
) -> None:
    """Delete old transactions and verdicts; what they taught stays. Or the refused rows.

    Age counts back from the newest transactions. Labels, reviews and the audit stay.
    """
    from aegis_core.detection import retention
    from aegis_core.intake import refusals

    if refused == bool(older_than):
        raise InputError("Give either --older-than, such as 400d, or --rejected.")
    store, _ = opened(db)
    if refused:
        n = refusals.count(store)
        print(refusals.forget(store, who=who) if yes else
              f"{n:,} refused rows are kept. Nothing was deleted yet; --yes does it.")  # fmt: skip
        return
    plan = retention.plan(store, days(older_than))
    print(plan.sentence())
    if plan.nothing:
        return
    if not yes:
        print("Nothing was deleted yet; --yes does it.")
        return
    with bar("forget") as tell:
        done = retention.forget(store, plan, who=who, tell=tell)
    print(done)


@app.command(
    epilog=example("aegis person c17 --export c17/", "aegis person c17 --erase --yes --who anna")
)
def person(
    customer: Annotated[str, typer.Argument(metavar="ID", help="The customer_id.")],
    who: Who,
    folder: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write all of it there.")
    ] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Remove it everywhere.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only say what would go.")] = False,
    db: Database = None,
) -> None:
    """All that is held of one customer: into a folder, or erased, also while a service runs.

    The others' verdicts still replay bit for bit, and the audit stays whole. Says what stays where.
    """
    from aegis_core.serving import holdings

    store, settings = opened(db)
    if folder is not None:
        print(holdings.export(store, settings, customer, folder, who=who).sentence())
        if not erase:
            return

    from aegis_core.serving import erasing

    if erase and yes:
        with bar("erase") as tell:
            done = erasing.erase(store, settings, customer, who=who, tell=tell)
        print(done)
        return
    print("\n".join(erasing.plan(store, settings, customer).lines()))
    print("Nothing was erased; --erase --yes does it." if erase else
          "--export DIR writes it, --erase removes it.")  # fmt: skip


@app.command(epilog=example("aegis export parquet/", "aegis export parquet/ --force"))
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    who: Who,
    force: Force = False,
    db: Database = None,
) -> None:
    """Write transactions, verdicts, labels and reviews as Parquet, a folder a day."""
    from aegis_core.store import export

    store, settings = opened(db)
    with bar("export") as tell:
        made = export.export(store, folder, settings, who=who, force=force, tell=tell)
    print(made.sentence())


@audit_app.callback(
    invoke_without_command=True,
    epilog=example(
        "aegis audit", "aegis audit list --since 2026-03-01", "aegis audit verify --head 12:3f9a…"
    ),
)
def _audit(context: typer.Context, db: Database = None) -> None:
    """Print the head of the audit, to be noted elsewhere: it stands for all rows up to it."""
    if context.invoked_subcommand:
        return
    from aegis_core.store import audit

    with opened(db)[0].reading() as session:
        print(audit.head(session) or "The audit is empty.")


@audit_app.command("list", epilog=example("aegis audit list", "aegis audit list --since 7d"))
def list_(
    since: Annotated[
        str, typer.Option(help="A date or time (UTC) such as 2026-03-01, or an age such as 7d.")
    ] = "",
    db: Database = None,
) -> None:
    """List what was changed, by whom."""
    from aegis_core.store import audit

    with opened(db)[0].reading() as session:
        entries = audit.entries(session, moment(since))
    names = ["seq", "recorded_at", "who", "action", "subject", "details"]
    rows = [
        (e.seq, f"{e.recorded_at:%Y-%m-%d %H:%M:%S}", e.who, e.action, e.subject, e.details)
        for e in entries
    ]
    write_table(names, rows, 0, widest=500)  # the why of a snooze comes last


@audit_app.command(epilog=example("aegis audit verify", "aegis audit verify --head 12:3f9a…"))
def verify(
    head: Annotated[
        list[str] | None, typer.Option(help="A head that was noted; again for more.")
    ] = None,
    db: Database = None,
) -> None:
    """Check that no row was changed, removed or put in; exit code 1 where one was."""
    from aegis_core.store import audit

    store, _ = opened(db)
    noted = [audit.Head.read(text) for text in head or []]
    # Before the state that is looked at: it may not lag behind.
    beside = audit.kept_head(store.path)
    lost = audit.lost_heads(store.path)  # after the one that may have taken the place of a lost one
    with store.snapshot() as session:
        found = audit.verify(session, [*noted, *([beside] if beside else []), *lost])
    print(found.sentence())
    if found.problem and lost:
        print(
            "Rows that were noted got lost before the last change; "
            f"{audit.lost_file(store.path)} tells which. Once it is known why, move that file away."
        )
    if beside is None and found.head is not None:
        print("No head is kept beside the database: that its end was cut off cannot be seen.")
    if found.problem:
        raise typer.Exit(1)
