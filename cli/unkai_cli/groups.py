"""Groups of commands: with the short names people's fingers know, and with a guess at typos."""

from __future__ import annotations

import difflib

import click

ALIASES = {"ls": "list", "rm": "delete", "get": "show", "set": "update"}
"""Short names that every group understands; help does not list them."""
_SYNONYMS = {"create": "add", "delete": "remove"}
"""What is meant in a group that lacks the first and has the second."""


class Group(click.Group):
    """A group that knows aliases, and says what was probably meant."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name or its alias."""
        meant = ALIASES.get(cmd_name, cmd_name)
        for name in (cmd_name, meant, _SYNONYMS.get(meant, meant)):
            found = super().get_command(ctx, name)
            if found is not None:
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run; an unknown one is refused with a guess."""
        name = args[0]
        unknown = not name.startswith("-") and self.get_command(ctx, name) is None
        if unknown and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.5)
            guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{guess}")
        return super().resolve_command(ctx, args)
