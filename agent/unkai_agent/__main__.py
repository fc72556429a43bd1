"""The command `unkai-agent`: says what is missing where its modules are not installed."""

from __future__ import annotations

from unkai_wire.extras import explain_missing


def main() -> None:
    """Run the command."""
    with explain_missing("agent"):
        from unkai_agent.main import main as command

        command()


if __name__ == "__main__":
    main()
