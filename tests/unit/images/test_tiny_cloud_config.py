"""The tiny image's reader of `#cloud-config`, run here by the same awk that the guest has."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import acceptance

RECIPE = Path(__file__).resolve().parents[3] / "images/tiny/root/usr/lib/unkai/cloud-config.awk"

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")

texts = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=40)


def script_of(config: str) -> str:
    """Turn a cloud-config into its shell script."""
    command = ["busybox", "awk", "-f", str(RECIPE)]
    made = subprocess.run(
        command, input=f"#cloud-config\n{config}", capture_output=True, text=True, check=True
    )
    return made.stdout


def run(config: str) -> tuple[str, int]:
    """Carry a cloud-config out; only for those that touch nothing outside a test's folder."""
    ended = subprocess.run(
        ["busybox", "sh", "-c", script_of(config)], capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    return ended.stdout, ended.returncode


def test_nothing_to_do_is_well_done() -> None:
    assert run("") == ("", 0)
    assert run("---\n# a comment\n\n") == ("", 0)


def test_commands_run_in_order_and_the_last_failure_is_the_status() -> None:
    config = """runcmd:
- echo one
- [echo, "two, too", 'it''s', "say \\"hi\\""]
- |
  echo three
  exit 4
- 'echo four'
"""
    assert run(config) == ('one\ntwo, too it\'s say "hi"\nthree\nfour\n', 4)


def test_files_are_written_before_commands_run(tmp_path: Path) -> None:
    config = f"""runcmd:
  - cat "{tmp_path}/a b/c"
write_files:
  - path: {tmp_path}/a b/c
    content: hello
"""
    assert run(config) == ("hello", 0)


def test_a_block_keeps_its_shape_and_ends_where_the_indent_ends(tmp_path: Path) -> None:
    config = f"""write_files:
- path: {tmp_path}/kept
  content: |
    #!/bin/sh
      indented: "x"

    last
  permissions: "0751"
- content: |-
    no newline
  path: {tmp_path}/stripped
"""
    assert run(config) == ("", 0)
    assert (tmp_path / "kept").read_text() == '#!/bin/sh\n  indented: "x"\n\nlast\n'
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o751
    assert (tmp_path / "stripped").read_text() == "no newline"


def test_base64_and_append(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"first\n").decode()
    config = f"""write_files:
- path: {tmp_path}/f
  encoding: b64
  content: {encoded}
- path: {tmp_path}/f
  append: true
  content: "second\\n"
"""
    assert run(config) == ("", 0)
    assert (tmp_path / "f").read_text() == "first\nsecond\n"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("packages:\n- vim\n- git\n", "packages"),
        ("users: [default]\n", "users"),
        ("write_files:\n- path: /x\n  owner: me\n  content: >\n    folded\n", "owner"),
        ("write_files:\n- {path: /x, content: y}\n", "write_files"),
        ("write_files:\n- path: /x\n  encoding: gzip\n", "gzip"),
        ("runcmd:\n  nested: thing\n", "line 3"),
    ],
)
def test_what_it_cannot_do_it_names(config: str, named: str) -> None:
    script = script_of(config)
    assert named in "".join(line for line in script.splitlines() if "unsupported" in line)
    if "path: /x\n  owner" not in config:  # that one would write its file
        output, status = run(config)
        assert output.startswith("unkai-tiny: cloud-config: unsupported: ")
        assert status == 1


def test_hostname_and_keys_become_commands() -> None:
    script = script_of("fqdn: web.example.org\nssh_authorized_keys: ['ssh-rsa A b']\n")
    assert "hostname 'web' &&" in script
    assert "'ssh-rsa A b' >>/root/.ssh/authorized_keys" in script


@settings(
    max_examples=acceptance.count(300),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(texts)
def test_any_text_reaches_a_file_unharmed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    single = text.replace("'", "''")
    config = f"""write_files:
- path: {path}.double
  content: {json.dumps(text)}
- path: {path}.single
  content: '{single}'
- path: {path}.block
  content: |-
    x{text}
"""
    assert run(config) == ("", 0)
    assert Path(f"{path}.double").read_text() == text
    assert Path(f"{path}.single").read_text() == text
    assert Path(f"{path}.block").read_text() == f"x{text}"


@settings(max_examples=acceptance.count(300))
@given(st.lists(texts, min_size=1, max_size=4))
def test_any_words_reach_a_command_unharmed(words: list[str]) -> None:
    config = f"runcmd:\n- [printf, '<%s>', {', '.join(json.dumps(word) for word in words)}]\n"
    assert run(config) == ("".join(f"<{word}>" for word in words), 0)
