"""What the sections of all these tools share: required keys, further options, a time limit, a refusal of what means nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pgcore.builtin.replica_command import STALL_S
from pgcore.plugin import CommandFailedError, IdleLimit, Json, ServerError, TaskContext, option_pairs

_TIME_OVER, _TIME_OVER_KILLED = 124, 137


def section(where: str, options: Json, known: Collection[str]) -> Mapping[str, Json]:
    """The section as a map. Raises ServerError for another thing and for a key the method does not know."""
    if not isinstance(options, dict):
        raise ServerError(f"{where} is {options!r}: it must be a map with the keys {', '.join(sorted(known))}")
    for key in options:
        if key not in known:
            raise ServerError(f"{where}.{key} is not a key of this method (known: {', '.join(sorted(known))}): remove it, or put "
                              f"it below {where}.options if it is an option of the tool")
    return options


def required(where: str, options: Mapping[str, Json], key: str, meaning: str) -> str:
    """A text that must be there. Raises ServerError."""
    value = options.get(key)
    if not isinstance(value, str) or not value:
        raise ServerError(f"{where}.{key} is missing: {meaning}")
    return value


def further(where: str, options: Mapping[str, Json]) -> list[str]:
    """``options`` of the section as arguments; a list of words and one-key maps, or a map (config 10.6). Raises ServerError."""
    arguments = []
    for name, value in option_pairs(options.get("options")):
        wrong = not isinstance(value, str | int | None) or isinstance(value, bool)
        if not isinstance(name, str) or name.startswith("-") or wrong:
            raise ServerError(f"{where}.options: {name!r} with {value!r}: names come without leading dashes, values in quotes")
        arguments.append(f"--{name}" if value is None else f"--{name}={value}")
    return arguments



def number(where: str, options: Mapping[str, Json], key: str, default: int) -> int:
    """A whole number, not below zero. Raises ServerError."""
    value = options.get(key, default)
    try:
        found = -1 if isinstance(value, bool) else int(str(value))
    except ValueError:
        found = -1
    if found < 0:
        raise ServerError(f"{where}.{key} is {value!r}: it must be a whole number, 0 or more")
    return found


def run(task: TaskContext, argv: list[str], limit_s: int, *, env: Mapping[str, str] | None = None, data_dir: str = "") -> str:
    """Run a program, for so many seconds at most (0: as long as it works, or fills ``data_dir``), and return its output.

    Raises CommandFailedError that names the program, also when its time was over, and CancelledError.
    """
    try:
        if limit_s:
            return task.run(["timeout", "--kill-after=10", str(limit_s), *argv], env=env)
        return task.run(argv, env=env, idle=IdleLimit(STALL_S, (data_dir,) if data_dir else ()))
    except CommandFailedError as error:
        if not limit_s or error.code is None:
            raise
        late = error.code in (_TIME_OVER, _TIME_OVER_KILLED)
        ended = f"did not end within {limit_s} s and was ended" if late else ""
        raise CommandFailedError(argv, error.code, error.output, ended) from error
