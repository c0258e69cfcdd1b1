"""`python -m bench`: the commands stand in bench/commands, one file each."""

from __future__ import annotations

from grok1.cli import interruption


def main() -> None:
    """Entry point."""
    interruption.end_at_once("bench")  # the imports take a second
    from bench.commands.app import app
    from grok1.cli import console

    console.run(app, "bench")


if __name__ == "__main__":
    main()
