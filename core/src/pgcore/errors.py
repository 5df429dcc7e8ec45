"""The exception tree. Library exceptions are translated into these at the port that called the library."""

from __future__ import annotations

from collections.abc import Sequence


class PgcoreError(Exception):
    """Every error pgcore raises on purpose. ``str()`` of it is fit for an operator."""


class ConfigError(PgcoreError):
    """A mistake in a configuration: which key, what is wrong with it, and how to mend it."""

    def __init__(self, path: str, problem: str, hint: str = "", source: str = "") -> None:
        self.path, self.problem, self.hint, self.source = path, problem, hint, source
        where = ": ".join(part for part in (source, path) if part)
        super().__init__((f"{where}: " if where else "") + problem + (f" ({hint})" if hint else ""))


class ConfigErrors(PgcoreError):
    """All mistakes found in one configuration, reported together."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class StoreUnavailableError(PgcoreError):
    """The store did not answer within the deadline: a write may or may not have happened."""


class StoreRejectedError(PgcoreError):
    """The store will never do this as configured (wrong password, missing permission, ttl below its floor)."""


class ServerError(PgcoreError):
    """Something about the local or a remote PostgreSQL server went wrong."""


class ServerUnavailableError(ServerError):
    """No connection, or no answer within the deadline."""


class CommandFailedError(ServerError):
    """A program could not be run, was given up, or ended with a code other than 0.

    ``output`` holds the last lines of its combined output; it never holds a password.
    """

    def __init__(self, argv: Sequence[str], code: int | None, output: str = "", ended: str = "") -> None:
        """``ended`` says in words how it ended where there is no code, other than that it could not be started."""
        self.argv, self.code, self.output = tuple(argv), code, output
        if not ended:
            ended = "could not be started" if code is None else f"exited with {code}"
        tail = output.strip().splitlines()[-5:]
        super().__init__(f"{argv[0]} {ended}" + (": " + " | ".join(tail) if tail else ""))


class CancelledError(PgcoreError):
    """A long action was cancelled before it finished."""


class PluginError(PgcoreError):
    """A plugin is missing, broken, or built for another API level."""

    def __init__(self, plugin: str, problem: str, hint: str = "") -> None:
        self.plugin, self.problem, self.hint = plugin, problem, hint
        super().__init__(f"plugin {plugin}: {problem}" + (f" ({hint})" if hint else ""))


class FatalError(PgcoreError):
    """The agent has to end, with this exit code; the text says what to do."""

    def __init__(self, problem: str, hint: str = "", exit_code: int = 1) -> None:
        self.problem, self.hint, self.exit_code = problem, hint, exit_code
        super().__init__(problem + (f" ({hint})" if hint else ""))
