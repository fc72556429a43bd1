"""The scheduler's command: `unkai-scheduler` alone runs the daemon (`daemon.py`).

The other commands make certificates and settings and touch no running daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import structlog

from unkai_scheduler import commands, database_commands, diagnosis
from unkai_scheduler.daemon import serve
from unkai_scheduler.settings import InvalidSettings, Settings, load_settings
from unkai_scheduler.tls_settings import TlsSettings
from unkai_wire import open_files, small_process
from unkai_wire.doctor import child
from unkai_wire.errors import UnkaiError
from unkai_wire.log_stream import standard_error
from unkai_wire.setting_values import FINE


def configure_logging(log_format: str, log_level: str) -> None:
    """Write structured lines to standard error, those of libraries too."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    log: Any = standard_error()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=log.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(log),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(log)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


_config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; /etc/unkai/scheduler.toml by default.",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_config
@click.option("--check-config", is_flag=True, help="Check the settings and exit: 0 ok, 1 not.")
@click.version_option(version("unkai"), prog_name="unkai-scheduler")
@click.pass_context
def main(context: click.Context, config: Path | None, check_config: bool) -> None:
    """Run unkai's scheduler, or prepare what it needs."""
    if check_config:
        _check(config)
    elif context.invoked_subcommand is None:
        _run(config)


@main.command()
@_config
@click.option("--check-config", is_flag=True, help="Check the settings and exit: 0 ok, 1 not.")
def run(config: Path | None, check_config: bool) -> None:
    """Run the scheduler until SIGTERM."""
    if check_config:
        _check(config)
    else:
        _run(config)


def _load(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except InvalidSettings as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        raise click.exceptions.Exit(1) from error


def _check(config: Path | None) -> None:
    settings = _load(config)
    unreadable = [
        f"{path}: cannot be read; make it with 'unkai-scheduler init', or name another file"
        for part in _credentials(settings)
        for path in (part.ca, part.certificate, part.key)
        if not os.access(path, os.R_OK)
    ]
    unreadable += [
        f"{path}: cannot be read; see [database] in the settings"
        for path in settings.database.files()
        if not os.access(path, os.R_OK)
    ]
    for problem in dict.fromkeys(unreadable):
        click.echo(problem, err=True)
    if unreadable:
        raise click.exceptions.Exit(1)
    click.echo(FINE)


def _credentials(settings: Settings) -> list[TlsSettings]:
    used = [settings.tls, settings.etcd.tls]
    return [*used, settings.network.tls] if settings.network.uses_tls else used


def _run(config: Path | None) -> None:
    settings = _load(config)
    small_process.share_memory_among_threads(arenas=2)
    open_files.raise_limit()
    small_process.stop_looking_at_what_stays()
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(serve(settings, partial(child.examine, "scheduler", config)))
    except UnkaiError as error:
        raise commands.explained(error) from error
    except OSError as error:
        raise click.ClickException(f"the scheduler cannot start: {error}") from error


for _command in (
    *(commands.init, commands.cert, commands.etcd),
    *(database_commands.db, diagnosis.diagnose),
):
    main.add_command(_command)

if __name__ == "__main__":
    main()
