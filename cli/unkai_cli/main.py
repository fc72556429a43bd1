"""The command tree and the global options.

Groups are imported when they are used: `unkai --help` reads only the table below. Other
packages add groups by the entry point `unkai.commands` (the lab does).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from unkai_cli import __version__, settings
from unkai_cli.output import EXIT_INTERRUPTED, FORMATS, Printer, error
from unkai_wire.errors import InvalidArgument, UnkaiError

COMMANDS = {
    "launch": ("instances:launch", "Make an instance and wait until it runs."),
    "ls": ("instances:list_instances", "List instances (as 'instance list')."),
    "instance": ("instances:instance", "Instances: your virtual machines."),
    "image": ("images:image", "Images: what disks begin as."),
    "flavor": ("flavors:flavor", "Flavors: named sizes."),
    "key": ("keys:key", "Public SSH keys."),
    "host": ("hosts:host", "Hosts: state, live figures, cordon."),
    "operation": ("operations:operation", "Long-running work: list, wait, cancel."),
    "event": ("events:event", "What happened, and what happens now."),
    "project": ("projects:project", "Projects: what owns your things."),
    "context": ("contexts:context", "Which cloud to talk to, and as whom."),
    "completion": ("completions:completion", "Print the shell's completion script."),
    "version": ("contexts:version", "Print versions."),
}
"""Name: (where it is, what it is for)."""


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="unkai.commands")}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_entry_points())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            found = getattr(importlib.import_module(f"unkai_cli.commands.{module}"), attribute)
        elif point := _entry_points().get(cmd_name):
            found = point.load()
        else:
            return None
        command: click.Command = found
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        rows += [(name, "Added by another package.") for name in sorted(_entry_points())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Session:
    """What every command shares: the printer and the client, both made on first use."""

    def __init__(
        self, *, context: str = "", project: str = "", form: str = "table", headers: bool = True
    ) -> None:
        self.context_name = context
        self.project = project
        self.all_projects = False
        self.form = form
        self.headers = headers
        self._client: Any = None

    @property
    def printer(self) -> Printer:
        """The printer in the format asked for."""
        return Printer(self.form, headers=self.headers)

    @property
    def client(self) -> Any:
        """The client of the context in use."""
        if self._client is None:
            from unkai_cli.client import Client

            context = settings.chosen(settings.load(), self.context_name)
            self._client = Client(context, self.project, self.all_projects)
        return self._client

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--context", default="", help="Cloud to talk to; see 'unkai context list'.")
@click.option("-p", "--project", default="", help="Project to work in, by name or id.")
@click.option("-o", "--output", "form", default="table", help=f"Format: {', '.join(FORMATS)}.")
@click.option("--no-headers", is_flag=True, help="Leave the titles of tables out.")
@click.version_option(__version__, "-V", "--version", prog_name="unkai")
@click.pass_context
def cli(ctx: click.Context, context: str, project: str, form: str, no_headers: bool) -> None:
    """unkai: a private cloud that one person can understand.

    Things are named by their name, their id, or a unique beginning of their id.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 exists already, or in the wrong
    state; 5 no capacity or quota; 6 unavailable, or took too long; 7 not permitted; 130
    interrupted.
    """
    ctx.obj = Session(context=context, project=project, form=form, headers=not no_headers)
    ctx.call_on_close(ctx.obj.close)


def main(args: list[str] | None = None) -> None:
    """Run the command line; never returns."""
    # grpc logs connection trouble on standard error by itself; our errors say it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        cli.main(args=args, prog_name="unkai", standalone_mode=False)
        code = 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.UsageError as wrong:
        wrong.show()
        code = 2
    except click.ClickException as wrong:
        code = error(InvalidArgument(wrong.format_message()))
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except UnkaiError as failure:
        code = error(failure)
    except BrokenPipeError:
        # The reader of our output is gone, as with `unkai ls | head -1`: that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.stdout.flush()
    sys.exit(code)
