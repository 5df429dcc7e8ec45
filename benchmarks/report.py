"""The results as a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

BYTES_PER_MIB = 1024 * 1024


def unit_of(figure: str) -> str:
    """The unit a figure is shown in."""
    for part, unit in (("lost commits", ""), ("memory", "MiB"), ("threads", ""), ("processes", ""),
                       ("processor", "ms/s"), ("requests", "1/s")):
        if part in figure:
            return unit
    return "s"


def shown(figure: str, value: float) -> str:
    """One value in its unit, without the unit."""
    scaled = {"MiB": value / BYTES_PER_MIB, "ms/s": value * 1000}.get(unit_of(figure), value)
    return f"{scaled:.2f}" if unit_of(figure) == "s" else f"{scaled:.1f}".removesuffix(".0")


def table(values: dict[str, dict[str, Sequence[float]]]) -> str:
    """``values`` maps system to figure to the values of all rounds; each cell is min / median / max."""
    systems = list(values)
    figures = list(dict.fromkeys(figure for system in systems for figure in values[system]))
    rows = [["", "unit", *systems]]
    for figure in figures:
        cells = []
        for system in systems:
            found = values[system].get(figure, ())
            numbers = (min(found), statistics.median(found), max(found)) if found else ()
            cells.append(" / ".join(shown(figure, number) for number in numbers) or "-")
        rows.append([figure, unit_of(figure), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
