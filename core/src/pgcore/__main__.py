"""The ``pgcore`` command: ``run`` goes straight to the agent, everything else to the command line."""

from __future__ import annotations

import sys

USAGE = """usage: pgcore run [FILE]

Run the agent of this node with a configuration file or directory. Without FILE the variables PGCORE_* and PATRONI_* configure
it."""


def main() -> int:
    """Entry point of the console script; the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] != ["run"]:
        from pgcore.cli.main import main as command_line

        return command_line()
    return _run(arguments[1:])


def _run(arguments: list[str]) -> int:
    if any(word in ("-h", "--help") for word in arguments):
        print(USAGE)
        return 0
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        print(f"{USAGE}\n\npgcore run takes one file, not: {' '.join(arguments)}", file=sys.stderr)
        return 2
    # The guard is forked before anything else is imported: it must stay small and know nothing of the agent's threads.
    from pgcore.daemon.guard import GuardError, prefork

    try:
        prepared = prefork()
    except GuardError as error:
        print(f"pgcore: {error}", file=sys.stderr)
        return 1
    from pgcore.daemon.run import run

    return run(arguments[0] if arguments else None, prepared)


if __name__ == "__main__":
    sys.exit(main())
