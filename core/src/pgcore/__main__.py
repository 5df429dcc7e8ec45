"""The ``pgcore`` program, also under the names of Patroni's programs. The agent starts without the command line's libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

USAGE = """usage: pgcore run [FILE]

Run the agent of this node with a configuration file or directory. Without FILE the variables PGCORE_* and PATRONI_* configure
it."""

MODES = frozenset({"--validate-config", "--generate-config", "--generate-sample-config"})
"""Options of ``patroni`` that are understood under every name, as in ``python -m pgcore node.yml --validate-config``."""


def main() -> int:
    """Entry point of the console script; the exit code. (CLI 6)"""
    program = PROGRAMS.get(os.path.basename(sys.argv[0]), _pgcore)
    return program(sys.argv[1:])


def _pgcore(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        return _run(arguments[1:])
    if MODES.intersection(arguments[:2]):
        return _patroni(arguments)
    return _command_line(arguments)


def _patroni(arguments: list[str]) -> int:
    if len(arguments) <= 1 and not any(word.startswith("-") for word in arguments):
        return _run(arguments)
    from pgcore.cli.patroni import main as patroni

    return patroni(arguments)


def _command_line(arguments: list[str]) -> int:
    from pgcore.cli.main import main as command_line

    return command_line(arguments)


def _witness(arguments: list[str]) -> int:
    return _command_line(arguments if arguments == ["--version"] else ["raft-witness", *arguments])


def _aws(arguments: list[str]) -> int:
    from importlib.metadata import entry_points

    found = tuple(entry_points(group="console_scripts", name="pgcore-aws"))
    if not found:
        print("patroni_aws: the plugin that tags EC2 instances is missing: pip install pgcore-callbacks-aws", file=sys.stderr)
        return 1
    return int(found[0].load()())


def _wale_restore(arguments: list[str]) -> int:
    from pgcore.builtin.backup.wale_restore import main as wale_restore

    return wale_restore(arguments)


def _barman(arguments: list[str]) -> int:
    from pgcore.builtin.backup.barman_command import main as barman

    return barman(arguments)


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "patroni": _patroni, "patronictl": _command_line, "patroni_raft_controller": _witness, "patroni_aws": _aws,
    "patroni_wale_restore": _wale_restore, "patroni_barman": _barman}
"""What runs when the program is called under another name than ``pgcore``."""


def _run(arguments: list[str]) -> int:
    if any(word in ("-h", "--help") for word in arguments):
        print(USAGE)
        return 0
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        print(f"{USAGE}\n\npgcore run takes one file, not: {' '.join(arguments)}", file=sys.stderr)
        return 2
    if os.getpid() == 1:
        from pgcore.daemon.init import become_init

        try:
            code = become_init()
        except OSError as error:
            print(f"pgcore: the agent cannot be forked: {error.strerror}", file=sys.stderr)
            return 1
        if code is not None:
            return code
    # The guard is forked before anything else is imported: it must stay small and know nothing of the agent's threads.
    from pgcore.daemon.guard import GuardError, prefork

    try:
        prepared = prefork()
    except GuardError as error:
        print(f"pgcore: {error}", file=sys.stderr)
        return 1
    from pgcore.errors import FatalError

    try:
        from pgcore.daemon.run import run
    except FatalError as error:  # a library is missing
        print(f"pgcore: {error}", file=sys.stderr)
        return error.exit_code
    return run(arguments[0] if arguments else None, prepared)


if __name__ == "__main__":
    sys.exit(main())
