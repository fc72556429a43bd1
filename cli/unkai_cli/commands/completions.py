"""`unkai completion SHELL`: the script that makes a shell complete commands and live names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

if TYPE_CHECKING:
    from unkai_cli.main import Session

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_obj
def completion(session: Session, shell: str) -> None:
    """Print the completion script: 'source <(unkai completion bash)'."""
    from unkai_cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    session.printer.line(kind(cli, {}, "unkai", "_UNKAI_COMPLETE").source())
