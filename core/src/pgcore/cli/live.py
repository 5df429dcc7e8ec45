"""What goes on while an action runs, on standard error: lines that stay, and on a terminal one that changes.

Standard output is left to the result, so that whoever reads it by a program finds there what patronictl prints.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from pgcore.clock import now
from pgcore.model.basics import Instant

if TYPE_CHECKING:
    from rich.status import Status

BAR = 24
STILL_S = 5.0
"""Without a terminal, what goes on is repeated this often at most."""


class Live:
    """Used as a context; ``began`` is what times count from."""

    def __init__(self, began: Instant) -> None:
        self._began = began
        self._status: Status | None = None
        self._told, self._told_at = "", began
        self._tenths = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return now() - self._began

    def line(self, text: str, at: Instant | None = None) -> None:
        """A step that is done, with the seconds since the beginning at which it began."""
        shown = f"  {(at if at is not None else now()) - self._began:6.2f} s  {text}"
        if self._status is None:
            click.echo(shown, err=True)
        else:
            self._status.console.print(shown, markup=False, soft_wrap=True)

    def going_on(self, what: str, detail: str = "", share: float | None = None) -> None:
        """What goes on now, and how far; ``share`` of it is done, 0 to 1. Empty: nothing that is worth a word."""
        if self._status is not None:
            from rich.text import Text

            bar = "" if share is None else f"  [{'#' * round(share * BAR):.<{BAR}}]"
            self._status.update(Text(f"{self.seconds:6.1f} s  {what}{detail}{bar}"))
            return
        tenths = int((share or 0.0) * 10)
        if what != self._told:
            self._told, self._told_at, self._tenths = what, now(), 0
        elif what and (tenths > self._tenths or now() - self._told_at > STILL_S):
            self._told_at, self._tenths = now(), tenths
            self.line(what + detail)
