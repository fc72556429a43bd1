"""The `unkai` command run inside the test's process, and its output compared with golden files."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from unkai_cli.main import run

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"
RENEW = "UNKAI_RENEW_GOLDEN"
"""Set to 1 to write the golden files anew; then read the difference before committing it."""
_ID = re.compile(
    r"\b(ins|pgr|hst|agg|img|flv|key|prj|opr|evt|net|sub|prt|rtr|fip|sgp|sgr|lbr)-[0-9a-z]{26}\b"
)
_AGE = re.compile(r"(usage_age_s\"?: )[0-9.]+")
_SAMPLE_AGE = re.compile(r"\b\d\.\ds\b")
_TOOK = re.compile(r"after \d+\.\d s")
_ETAG = re.compile(r"(\"etag\": \"|etag: |Etag: +)[0-9a-z-]+")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def unkai(*args: str, typed: bytes = b"") -> Outcome:
    """Run `unkai ARGS` with something on standard input."""
    with CliRunner().isolation(typed) as (out, err, _):
        code = run(list(args))
        sys.stdout.flush()
        sys.stderr.flush()
        return Outcome(code, out.getvalue().decode(), err.getvalue().decode())


def plain(text: str) -> str:
    """Return output with what differs from run to run made equal, widths kept."""
    names: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"{match[1]}-{len(names) + 1:026}")

    text = _AGE.sub(r"\g<1>0.5", _ID.sub(numbered, text))
    text = _TOOK.sub("after 0.1 s", _SAMPLE_AGE.sub("0.5s", text))
    text = _UUID.sub("00000000-0000-4000-8000-000000000000", text)
    return _ETAG.sub(r"\g<1>E", text)


def check_golden(name: str, text: str) -> None:
    """Compare output with `tests/golden/cli/NAME.txt`; write it when asked to."""
    path = GOLDEN / f"{name}.txt"
    shown = plain(text)
    if os.environ.get(RENEW) == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown)
    assert path.exists(), f"no {path}; write it with {RENEW}=1"
    assert shown == path.read_text(), f"differs from {path}; renew with {RENEW}=1 if it is right"
