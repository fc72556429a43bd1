"""`unkai-scheduler db`: look after the database, beside the daemon or while it is stopped.

Each command reads the daemon's settings and talks to the database alone. What would harm a running
scheduler refuses while one has the database open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from unkai_scheduler.commands import explaining
from unkai_scheduler.domain.clock import system_clock
from unkai_scheduler.settings import InvalidSettings, load_settings
from unkai_scheduler.store.upkeep import Upkeep, open_upkeep
from unkai_wire.ids import new_id

_config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; /etc/unkai/scheduler.toml by default.",
)


@click.group()
def db() -> None:
    """Check, upgrade and back up the database."""


@db.command()
@_config
def check(config: Path | None) -> None:
    """Say how the database is; exit 1 when something is wrong. Harmless at any time."""
    with _upkeep(config) as upkeep:
        found = upkeep.check()
    width = max(len(finding.what) for finding in found)
    for finding in found:
        click.echo(f"{'ok   ' if finding.ok else 'WRONG'} {finding.what:{width}} {finding.text}")
        if not finding.ok:
            click.echo(f"      fix: {finding.fix}")
    if not all(finding.ok for finding in found):
        raise click.exceptions.Exit(1)


@db.command()
@_config
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def upgrade(config: Path | None, dry_run: bool) -> None:
    """Bring the database to this version's schema, or make a new one.

    The scheduler does so itself when it starts. Back up first: there is no way back.
    """
    with _upkeep(config) as upkeep:
        done = upkeep.pending() if dry_run else upkeep.upgrade(system_clock(), new_id)
    if not done.steps:
        click.echo(f"at revision {done.from_revision}: nothing to do")
    for revision, purpose in done.steps:
        click.echo(f"{'would apply' if dry_run else 'applied'} {revision}: {purpose}")


@db.command()
@_config
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(config: Path | None, file: Path) -> None:
    """Write a consistent copy of the database to FILE while schedulers go on."""
    with _upkeep(config) as upkeep:
        upkeep.backup(file)
    click.echo(f"wrote {file}, {file.stat().st_size} bytes")


@db.command()
@_config
def restored(config: Path | None) -> None:
    """Declare that a backup was put back; run it before any scheduler starts.

    A new term keeps every older leader from writing, and a new history epoch has every watcher
    list anew. Machines that the backup does not know are kept and reported. Requests that were
    under way when the backup was made end as FAILED, but for deletions: what came of them since
    is not known.
    """
    with _upkeep(config) as upkeep:
        begun = upkeep.restored(system_clock(), new_id)
    click.echo(f"term {begun.term} and history {begun.revision} begin; older watches list anew")
    for ended in begun.ended:
        click.echo(f"ended {ended.id}: {ended.verb.value} of {ended.resource_id} was under way")
    click.echo("next: start the schedulers, then see what the backup does not know:")
    click.echo("  unkai audit orphans            # machines made since the backup")
    click.echo("  unkai instance adopt --all     # take them all back")


@contextmanager
def _upkeep(config: Path | None) -> Iterator[Upkeep]:
    try:
        settings = load_settings(config)
    except InvalidSettings as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        raise click.exceptions.Exit(1) from error
    with explaining():
        yield open_upkeep(settings.database)
