"""What the pages show: commands to type, targets of make, links. Read as text, not rendered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        page
        for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changes/*.md"))
        if page.name != "CHANGELOG.md"
    )
)
_FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_PROGRAM = re.compile(r"(?:sudo |exec )?(unkai(?:-scheduler|-agent)?)(?= |$)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MAKE = re.compile(r"^(?:\$ )?make ([a-z][a-z0-9-]*)")
_ENDS = re.compile(r"[|;&<>()#`…]")


@dataclass(frozen=True, slots=True)
class Shown:
    """A command line that a page shows."""

    page: str
    text: str

    @property
    def program(self) -> str:
        """The command's first word."""
        return self.text.split()[0]


def code_of(page: Path) -> list[str]:
    """Return what stands in a page as code: the lines of its blocks, and what is in the text."""
    text = page.read_text()
    lines = [line for block in _FENCED.findall(text) for line in block.splitlines()]
    return lines + _INLINE.findall(_FENCED.sub("", text))


def commands_of(page: Path) -> Iterator[Shown]:
    """Yield the lines that call one of our programs."""
    for line in code_of(page):
        for piece in _ENDS.split(line.removeprefix("$ ")):
            words = piece.strip().strip("\"'$")
            if " " in words and (match := _PROGRAM.match(words)):
                yield Shown(str(page.relative_to(ROOT)), words[match.start(1) :])


def links_of(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    return _LINK.findall(_INLINE.sub("", _FENCED.sub("", page.read_text())))


def targets_of(page: Path) -> set[str]:
    """Return the targets of make that a page names in code."""
    return {target for line in code_of(page) for target in _MAKE.findall(line.strip())}


def problem_of(command: click.Command, words: list[str]) -> str:
    """Return what a command does not have of the words behind it; empty when all is there."""
    options = _options(command)
    rest = iter(words)
    for word in rest:
        if word == "--":
            return ""
        if word.startswith("-") and len(word) > 1:
            name = word.split("=")[0]
            if name not in options:
                return f"{command.name} has no {name}"
            if not options[name].is_flag and "=" not in word:
                next(rest, None)
        elif isinstance(command, click.Group):
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                return ""  # a placeholder stands for any of them
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"{command.name} has no command {word}"
            command = found
            options = options | _options(found)
    return ""


def _options(command: click.Command) -> dict[str, click.Option]:
    # `-h` as all roots have it; what is below inherits it.
    context = click.Context(command, help_option_names=["-h", "--help"])
    return {
        name: option
        for option in command.get_params(context)
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


def words_of(shown: Shown) -> list[str]:
    """Split a command line as a shell does, brackets of what is optional taken away."""
    plain = re.sub(r"[\[\]]", "", shown.text)
    try:
        return shlex.split(plain)[1:]
    except ValueError:
        return plain.split()[1:]
