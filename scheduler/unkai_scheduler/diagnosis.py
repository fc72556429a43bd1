"""`unkai-scheduler diagnose`: look for what is wrong, and change nothing."""

from __future__ import annotations

from pathlib import Path

import click

from unkai_scheduler.settings import DEFAULT_FILE, load_settings
from unkai_wire.doctor.findings import CHECK_S


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; /etc/unkai/scheduler.toml by default.",
)
@click.option("--check", "only", multiple=True, help="Only the check of this name; repeatable.")
@click.option("--list", "list_them", is_flag=True, help="List the checks and end.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=CHECK_S,
    show_default=True,
    help="Seconds that the checks may take.",
)
def diagnose(
    *, config: Path | None, only: tuple[str, ...], list_them: bool, form: str, timeout_s: float
) -> None:
    """Look for what is wrong with this scheduler; 'unkai doctor' shows it with all else.

    Exit codes: 0 nothing found; 1 warnings; 2 something does not work.
    """
    from importlib.metadata import version

    from unkai_scheduler.doctor.checks import CHECKS
    from unkai_scheduler.doctor.scene import Scene
    from unkai_wire.doctor import command

    if list_them:
        click.echo(command.listing(CHECKS))
        return

    def scene() -> tuple[str, Scene]:
        made = Scene(load_settings(config))
        return made.where, made

    report = command.diagnosis(
        CHECKS,
        scene,
        version("unkai"),
        only=only,
        timeout_s=timeout_s,
        file=str(config or DEFAULT_FILE),
    )
    command.finish(report, form)
