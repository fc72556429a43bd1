"""Lets a process of its own read the settings: the daemon needs them, and not what checks them.

That is pydantic with all that it imports, 10 MiB of each host for as long as the agent runs.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from unkai_agent.settings import InvalidSettings, Settings
from unkai_wire.extras import explain_missing


def load_settings_apart(path: Path | None = None) -> Settings:
    """Do as `settings_reader.load_settings` does, in a process that ends with it."""
    # -P: the folder we were started in is not looked into for modules.
    command = [sys.executable, "-P", "-m", __name__, *([str(path)] if path else [])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        # It has said why on standard error, which is ours too.
        raise InvalidSettings([f"what checks the settings ended with {done.returncode}"])
    answer: Settings | list[str] = pickle.loads(done.stdout)  # noqa: S301 - our own program's
    if isinstance(answer, Settings):
        return answer
    raise InvalidSettings(answer)


def _main(path: Path | None) -> None:
    answer: Settings | list[str]
    with explain_missing("agent"):
        from unkai_agent.settings_reader import load_settings

        try:
            answer = load_settings(path)
        except InvalidSettings as error:
            answer = error.problems
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    _main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
