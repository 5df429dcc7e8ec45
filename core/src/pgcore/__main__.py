"""``pgcore``: ``run`` goes straight to the daemon, everything else to the command line.

The daemon must not carry the command line's libraries, so they are imported only when they are needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"] and len(arguments) <= 2 and not any(word.startswith("-") for word in arguments[1:]):
        from pgcore.daemon.run import run

        return run(arguments[1] if arguments[1:] else None) or 0
    from pgcore.cli.main import main as command_line

    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
