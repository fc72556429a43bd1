"""The command tree and the global options.

Groups are imported when they are used: `unkai --help` reads only the table below. Other
packages add groups by the entry point `unkai.commands` (the lab does).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from unkai_cli import __version__, plugins
from unkai_cli.groups import Group
from unkai_cli.output import EXIT_INTERRUPTED, EXIT_USAGE, FORMATS, error, note
from unkai_cli.plugins import added
from unkai_cli.session import Session
from unkai_wire.errors import FailedPrecondition, InvalidArgument, UnkaiError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "launch": ("launches:launch", "Make an instance and wait until it runs."),
    "ls": ("instances:list_instances", "List instances (as 'instance list')."),
    "ssh": ("forwards:ssh", "Log in to an instance, wherever it is."),
    "forward": ("forwards:forward", "Forward local TCP ports to an instance."),
    "instance": ("instances:instance", "Instances: your virtual machines."),
    "image": ("images:image", "Images: what disks begin as."),
    "flavor": ("flavors:flavor", "Flavors: named sizes."),
    "key": ("keys:key", "Public SSH keys that guests get on first boot."),
    "placement-group": (
        "placement_groups:placement_group",
        "Instances near each other, or apart.",
    ),
    "network": ("networks:network", "Networks: list, make, draw, 'why' one end reaches another."),
    "subnet": ("subnets:subnet", "Subnets: the addresses of a network."),
    "port": ("ports:port", "Ports: where instances are plugged in."),
    "router": ("routers:router", "Routers: ways between networks, and out."),
    "floating-ip": ("floating_ips:floating_ip", "Addresses reached from outside."),
    "security-group": ("security_groups:security_group", "What may reach a port, or leave it."),
    "load-balancer": ("load_balancers:load_balancer", "One address for several instances."),
    "host": ("hosts:host", "Hosts: state, live figures, zones, cordon."),
    "aggregate": ("aggregates:aggregate", "Aggregates: hosts that you say the same of."),
    "placement": ("placement:placement", "Where instances would go, or went: what-ifs, replays."),
    "audit": ("audits:audit", "What does not fit: drift, orphans."),
    "operation": ("operations:operation", "Long-running work: list, wait, cancel."),
    "event": ("events:event", "What happened, and what happens now."),
    "project": ("projects:project", "Projects: what owns your things."),
    "doctor": ("doctor:doctor", "What is wrong, and how to mend it."),
    "context": ("contexts:context", "Which cloud to talk to, and as whom."),
    "completion": ("completions:completion", "Print the shell's completion script."),
    "version": ("contexts:version", "Print the version of this command."),
}
"""Name: (where it is, what it is for)."""
SHORT = {
    "net": "network",
    "pg": "placement-group",
    "fip": "floating-ip",
    "sg": "security-group",
    "lb": "load-balancer",
}
"""Short nouns; help does not list them."""


def _summaries() -> dict[str, str]:
    """Return every command with what it is for, importing none."""
    others = {name: f"Added by {target.partition('.')[0]}." for name, target in added().items()}
    return {name: text for name, (_, text) in COMMANDS.items()} | others


class LazyGroup(Group):
    """The root: its commands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order of help."""
        return list(_summaries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        cmd_name = SHORT.get(cmd_name, cmd_name)
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            found = getattr(importlib.import_module(f"unkai_cli.commands.{module}"), attribute)
        elif cmd_name in added():
            found = plugins.load(cmd_name)
        else:
            return None
        command: click.Command = found
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' section of help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_summaries().items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands without importing them."""
        from click.shell_completion import CompletionItem

        named = [
            CompletionItem(name, help=text)
            for name, text in _summaries().items()
            if name.startswith(incomplete)
        ]
        # click.Command's own: the options of the root, when an option is being typed.
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that went away (`unkai ls | head -1`) is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        return result


def _complete_contexts(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from unkai_cli.commands.options import complete_contexts

    return complete_contexts(ctx, param, incomplete)


def _complete_projects(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from unkai_cli.commands.options import complete_names

    return complete_names("project")(ctx, param, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--context",
    default="",
    help="Cloud to talk to; see 'unkai context list'.",
    shell_complete=_complete_contexts,
)
@click.option(
    "-p",
    "--project",
    default="",
    help="Project to work in, by name or id.",
    shell_complete=_complete_projects,
)
@click.option("-o", "--output", "form", default="table", help=f"Format: {', '.join(FORMATS)}.")
@click.option("--no-headers", is_flag=True, help="Leave the titles of tables out.")
@click.option(
    "--trace",
    is_flag=True,
    help="Have the calls traced, and say under which id. $TRACEPARENT names a trace to join.",
)
@click.version_option(__version__, "-V", "--version", prog_name="unkai")
@click.pass_context
def cli(
    ctx: click.Context, *, context: str, project: str, form: str, no_headers: bool, trace: bool
) -> None:
    """unkai: a private cloud that one person can understand.

    Things are named by their name, their id, or a unique beginning of their id.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 exists already, or in the wrong
    state; 5 no capacity or quota; 6 unavailable, or took too long; 7 not permitted; 130
    interrupted.
    """
    traceparent = os.environ.get("TRACEPARENT", "")
    if trace:
        traceparent = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
        note(f"trace {traceparent.split('-')[1]}")
    ctx.obj = Session(
        context=context,
        project=project,
        form=form,
        headers=not no_headers,
        traceparent=traceparent,
    )
    ctx.call_on_close(ctx.obj.close)


def run(args: list[str] | None = None) -> int:
    """Run the command line; print what went wrong; return the exit code."""
    try:
        code = cli.main(args=args, prog_name="unkai", standalone_mode=False)
    except click.UsageError as wrong:
        with suppress(OSError):  # where it cannot be printed, the code alone tells
            wrong.show()
        return EXIT_USAGE
    except click.ClickException as wrong:
        return error(InvalidArgument(wrong.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (UnkaiError, OSError, UnicodeEncodeError, ModuleNotFoundError) as failure:
        return error(_told(failure))
    return code if isinstance(code, int) else 0


def _told(failure: Exception) -> UnkaiError:
    """Return what the user is told of a failure."""
    match failure:
        case UnkaiError():
            return failure
        case OSError():
            return _local_trouble(failure)
        case UnicodeEncodeError():
            return _not_utf8(failure)
        case ModuleNotFoundError():
            return _not_installed(failure)
        case _:
            raise failure


def _local_trouble(trouble: OSError) -> UnkaiError:
    """Say what this machine refused: a file, a disk, a terminal."""
    what = f"{trouble.filename}: " if trouble.filename else ""
    return FailedPrecondition(
        f"{what}{trouble.strerror or trouble}",
        reason="LOCAL_ERROR",
        fix="look at the file, its folder's permissions and the space on its disk",
        metadata={"path": str(trouble.filename)} if trouble.filename else {},
    )


def _not_utf8(trouble: UnicodeEncodeError) -> UnkaiError:
    """Say which argument no message of the contracts can carry."""
    return InvalidArgument(
        f"{trouble.object[:64]!a} is not text in UTF-8",
        reason="NOT_UTF8",
        fix="write it in UTF-8; see what your terminal sends",
    )


def _not_installed(missing: ModuleNotFoundError) -> UnkaiError:
    """Say what a command that another package added lacks; a module of ours is always there."""
    if str(missing.name).startswith("unkai"):
        raise missing
    return FailedPrecondition(
        f"this command needs the Python module {missing.name}, which is not installed",
        reason="NOT_INSTALLED",
        fix="install what added the command with all it needs: for the lab, "
        "pip install 'unkai[lab]'",
        metadata={"module": str(missing.name)},
    )


def _mend_streams() -> None:
    """Let printing never fail for what the terminal lacks.

    A closed stream (`<&-`) becomes /dev/null: else a connection would get its number. What the
    terminal's encoding does not have is written as an escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line; never returns."""
    _mend_streams()
    # grpc logs connection trouble on standard error by itself; our errors say it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code = run(args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process at once, without taking the interpreter down.

    grpc's threads die with the interpreter wherever they are, also holding the lock of a call that
    has ended; the call's finaliser wants that lock, and the command would never end.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # told already where it was written
            stream.flush()
    os._exit(code)
