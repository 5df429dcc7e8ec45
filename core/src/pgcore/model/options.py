"""Command-line options as they are configured: a list or a map, read the same way for every program. (config 10.6)"""

from __future__ import annotations

from pgcore.model.basics import Json


def option_pairs(configured: Json) -> list[tuple[Json, Json]]:
    """The list and the map form of options as pairs; None stands for "no value". Empty values of a map are skipped."""
    if isinstance(configured, dict):
        return [(name, _unquoted(value)) for name, value in configured.items() if value not in (None, "")]
    pairs: list[tuple[Json, Json]] = []
    for entry in configured or ():
        if isinstance(entry, dict):
            pairs += [(name, _unquoted(value)) for name, value in entry.items()] if len(entry) == 1 else [(tuple(entry), entry)]
        elif isinstance(entry, str):
            name, equals, value = entry.partition("=")
            pairs.append((name, _unquoted(value) if equals else None))
        else:
            pairs.append((entry, entry))
    return pairs


def _unquoted(value: Json) -> Json:
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
