"""`unkai completion SHELL`: the script that makes a shell complete commands and live names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

if TYPE_CHECKING:
    from unkai_cli.session import Session

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script; it completes live names too.

    \b
    bash  echo 'source <(unkai completion bash)' >> ~/.bashrc
    zsh   echo 'source <(unkai completion zsh)' >> ~/.zshrc
    fish  unkai completion fish > ~/.config/fish/completions/unkai.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    session: Session = ctx.obj
    script = kind(ctx.find_root().command, {}, "unkai", "_UNKAI_COMPLETE")
    session.printer.line(script.source_template % script.source_vars())
