"""One agent to a state folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unkai_agent.state_lock import holder_of, only_agent_of
from unkai_wire.errors import FailedPrecondition

_HOLDER = """
import sys, time
from pathlib import Path
from unkai_agent.state_lock import only_agent_of
with only_agent_of(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_agent_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(FailedPrecondition) as caught, only_agent_of(tmp_path, wait_s=0.2):
            pass
        assert caught.value.reason == "STATE_IN_USE"
        os.kill(first.pid, signal.SIGKILL)
        with only_agent_of(tmp_path):
            assert list(tmp_path.iterdir()) == []
    finally:
        first.kill()
        first.communicate()


def test_the_holder_of_a_folder_is_known_by_its_process(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    with only_agent_of(tmp_path):
        assert holder_of(tmp_path) == os.getpid()
    assert holder_of(tmp_path) is None
    assert holder_of(tmp_path / "none") is None
