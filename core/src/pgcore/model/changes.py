"""How a value becomes another, and what many rules ask of a value but is found out only once.

Wide values that change several times in a heartbeat (``World``, ``Memory``, ``NodeView``) are frozen like all others but have no
slots: copying one dictionary costs a twentieth of setting fifty fields. What was found out is kept with the value it is about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

_Value = TypeVar("_Value")
_More = TypeVarTuple("_More")
_Answer = TypeVar("_Answer")
_KEPT = "kept answers"
"""Where they are in the value's dictionary: no name of a field."""

if TYPE_CHECKING:
    from dataclasses import replace
else:

    def replace(value: Any, /, **changes: Any) -> Any:
        """``dataclasses.replace``, quick for values without slots. These get no ``__post_init__``."""
        try:
            fields = value.__dict__
        except AttributeError:
            return dataclasses.replace(value, **changes)
        own = {**fields, **changes}
        if len(own) != len(fields):
            raise TypeError(f"{type(value).__name__} has no {', '.join(changes.keys() - fields.keys())}")
        own.pop(_KEPT, None)
        changed = object.__new__(type(value))
        object.__setattr__(changed, "__dict__", own)
        return changed


def once(function: Callable[[_Value, *_More], _Answer]) -> Callable[[_Value, *_More], _Answer]:
    """A pure function of a value without slots that is worked out once for each value, then remembered with it."""

    @wraps(function)
    def answer(value: _Value, *more: *_More) -> _Answer:
        asked = (function, more) if more else function
        try:
            return value.__dict__[_KEPT][asked]
        except KeyError:
            found = value.__dict__.setdefault(_KEPT, {})[asked] = function(value, *more)
            return found

    return answer


__all__ = ["once", "replace"]
