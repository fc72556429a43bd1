"""Write docs/reference/cli.md from the command tree: `python tools/cli_reference.py [FILE]`.

The text around the commands is `_HEAD`; a unit test compares the file with what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from unkai_cli.groups import ALIASES
from unkai_cli.main import COMMANDS, SHORT, cli

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
_HEAD = """\
# Reference: the `unkai` command

Made from the command tree by `python tools/cli_reference.py`; do not edit it by hand.

`unkai NOUN VERB`: each noun is a group of commands. Things are named by their name, their id, or a
unique beginning of their id (`ins-01m…`); a beginning that fits several is refused with the
candidates.

{aliases}. Where there is `add` and `remove`, `create` and `delete` mean these.

## Output

| `-o` | what is printed |
| --- | --- |
| `table` | the default: a plain table, or a list of fields for one thing |
| `wide` | the table with more columns |
| `json`, `yaml` | all fields, named as in the contracts; times in RFC 3339, sizes in bytes |
| `name` | one name a line |
| `value=FIELD` | one field a line; `value=labels.app` reaches into maps |

Results go to standard output; progress, notes and errors to standard error. Colours are used only
on a terminal, and never when `NO_COLOR` is set. With `--watch`, `json` is one object a line and
`yaml` one document each; `--watch` lists, then prints each thing again when it has changed, and
goes on over a lost scheduler.

## Sizes and lengths of time

Units of size are binary, with or without `i` and `B`: `512M`, `512Mi`, `512MB` and `512MiB` are all
536870912 bytes; `K M G T P`. A size that is no whole number of bytes is refused, never rounded.
Lengths of time are `90`, `90s`, `5m`, `1h30m`, `7d`.

## Networks

Network addresses are written as they are read: `10.0.0.0/24`, `fd00::/64`, `10.0.0.10-10.0.0.99`;
`10.0.0.5/24` is refused, for it may mean two things. A route is `10.9.0.0/16=10.0.0.7` or
`default=10.0.0.1`; a rate `100M` or `2.5G`, in bits per second and decimal.

A security group's rule is written, and printed, as
`ingress|egress [ipv4|ipv6] [PROTOCOL [PORTS]] [from|to OTHER-END]`: `ingress tcp 22 from
10.0.0.0/8`, `ingress tcp 8000-8099 from group web`, `egress udp 53`, `ingress icmp 8`. Protocols
are `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` and `any`; what is not said is any.

Where things of several kinds may be named, and two have the name, the kind stands before it:
`instance/web`, `port/web`, `load-balancer/web`, `floating-ip/web`. The far end of
`unkai network why` is such a name or an address, with `:PORT` and `/tcp`, `/udp` or `/sctp`;
an IPv6 address with a port stands in brackets: `[fd00::5]:443`. A floating address may be named by
the address itself.

What is changed is true when the command ends; `--wait` waits until OVN has followed, too (column
`READY`).

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: cancelled, not supported, or a fault of ours |
| 2 | wrong usage, or a value that is wrong whatever the state |
| 3 | not found |
| 4 | exists already, in the wrong state, or changed by somebody else meanwhile |
| 5 | no capacity, or over a quota |
| 6 | unavailable, or took too long |
| 7 | not permitted |
| 130 | interrupted; work that was accepted goes on |

An operation that failed ends the command with the code of the error it failed with.

## Errors

An error has four parts: what happened; why (a stable reason, with its values); what to do next; and
the request id, which the scheduler's log and its events carry too.

```
error: no host fits
  why: NO_CAPACITY (wanted_vcpus=64)
       memory: 2 hosts
       vcpus: 1 host
  fix: ask for less, free something, or wait with --capacity-wait
  request: 1fa7911b-9863-4cd1-9aca-7b9d18b1f5ef
```

A call that ends in "unavailable" is repeated for some seconds with the same request id, so that a
change is made once.

## Environment

| variable | meaning |
| --- | --- |
| `UNKAI_CONTEXT` | context to use; wins over all below |
| `UNKAI_SOCKET` | the scheduler's unix socket |
| `UNKAI_ADDRESS` | the scheduler's `IP:PORT`; of several, like sockets, `A,B` |
| `UNKAI_CA`, `UNKAI_CERTIFICATE`, `UNKAI_KEY` | with an address: PEM files |
| `UNKAI_PROJECT` | project to work in |
| `UNKAI_AGENT_SOCKET` | the agent's unix socket, for `console --on-host` |
| `XDG_CONFIG_HOME` | contexts are kept in its `unkai/config.toml`; default `~/.config` |
| `NO_COLOR` | no colours |

With none of these and no context, the scheduler's socket on this machine is used:
`/run/unkai/scheduler.sock`.

## Commands
"""


def reference() -> str:
    """Return the page."""
    known = {**ALIASES, **SHORT}
    short = ", ".join(f"`{alias}` is `{word}`" for alias, word in known.items())
    lines = [_HEAD.format(aliases=f"Short words: {short}")]
    with click.Context(cli, info_name="unkai") as root:
        lines += _section(cli, root, "### `unkai` itself")
        for name in COMMANDS:
            command = cli.get_command(root, name)
            assert command is not None
            lines += _command(command, name, root)
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as ctx:
        yield from _section(command, ctx, f"### `{ctx.command_path}`")
        if isinstance(command, click.Group):
            for below in command.list_commands(ctx):
                found = command.get_command(ctx, below)
                assert found is not None
                yield from _command(found, below, ctx)


def _section(command: click.Command, ctx: click.Context, title: str) -> Iterator[str]:
    yield f"{title}\n"
    if not isinstance(command, click.Group):
        usage = " ".join(command.collect_usage_pieces(ctx))
        yield f"```\n{ctx.command_path} {usage}\n```\n"
    yield from _paragraphs(command.help or "")
    rows = [row for parameter in command.params if (row := _row(parameter, ctx))]
    if rows:
        yield "| option | meaning |\n| --- | --- |"
        yield from rows
        yield ""


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the help's paragraphs; those that keep their lines become code."""
    import inspect

    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield f"```\n{paragraph[2:]}\n```\n"
        else:
            yield paragraph + "\n"


def _row(parameter: click.Parameter, ctx: click.Context) -> str:
    if isinstance(parameter, click.Argument):
        return ""  # the usage line says all there is
    shown: Any = parameter.get_help_record(ctx)
    if shown is None:
        return ""
    option, meaning = (text.replace("|", "\\|") for text in shown)
    return f"| `{option}` | {meaning} |"


def main() -> None:
    """Write the page to the file named, or to its place."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(reference())


if __name__ == "__main__":
    main()
