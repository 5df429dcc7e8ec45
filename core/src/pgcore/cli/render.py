"""Tables: plain text as people know it from patronictl, and tsv, json, yaml for programs (cli 2 and 3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgcore.cli.members import Views
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView
from pgcore.rest.members import ClusterMode, MemberRow, member_rows

FORMATS = ("pretty", "tsv", "json", "yaml", "yml")
_RIGHT = frozenset({"Group", "TL", "LSN", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"})
_COLUMNS = ("Member", "Host", "Role", "State", "TL", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag")
_OPTIONAL = ("Pending restart", "Pending restart reason", "Scheduled restart", "Tags")
_ROLES = {"leader": "Leader", "standby_leader": "Standby Leader", "sync_standby": "Sync Standby",
          "quorum_standby": "Quorum Standby", "replica": "Replica"}
_LONG_REASON = 50
_LABEL = 24


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows as values.

    In the pretty form ``title`` goes into the upper rule, the columns of ``in_title`` are left out, and objects are YAML: block
    by block, with ``flow`` on one line.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Json]]
    title: str = ""
    in_title: frozenset[str] = frozenset()
    flow: bool = False


def cluster_table(scope: str, views: Views, group: int | None = None, *, extended: bool = False, tree: bool = False,
                  progress: bool = True) -> Table:
    """The table of ``list`` and ``topology``; ``tree`` puts replicas below the member they follow.

    ``progress`` adds a column while a member is being copied.

    ``views`` are the groups of the cluster by number, with ``group`` only that one; without groups it has the number None.
    """
    found = {number: member_rows(view, ClusterMode.of(view)) for number, view in views.items()}
    with_ports = _with_ports([row for rows in found.values() for row in rows])
    cells: list[dict[str, Json]] = []
    for number, rows in found.items():
        own = [{"Cluster": scope, "Group": number, **_cells(row, with_ports)} for row in rows]
        cells += _as_tree(rows, own) if tree else own
    grouped = None not in views
    optional = [name for name in _OPTIONAL if extended or any(row[name] for row in cells)]
    optional += ["Progress"] if progress and any(row["Progress"] for row in cells) else []
    columns = ("Cluster", *(("Group",) if grouped else ()), *_COLUMNS, *optional)
    in_title = frozenset({"Cluster"} if group is None else {"Cluster", "Group"})
    return Table(columns, cells, _cluster_title(scope, views, group), in_title, flow=tree)


def _cluster_title(scope: str, views: Views, group: int | None) -> str:
    if None not in views and group is None:
        return f" Citus cluster: {scope} "
    initialize = views[group].initialize
    name = initialize if initialize else "uninitialized" if initialize is None else "initializing"
    return f" Cluster: {scope} ({name}) " if group is None else f" Citus cluster: {scope} (group: {group}, {name}) "


def pretty(table: Table) -> str:
    """Plain text with rules."""
    columns = [name for name in table.columns if name not in table.in_title]
    heads = [name.split(" ")[-1] if name in ("Receive Lag", "Replay Lag") else name for name in columns]
    texts = [[_lines(name, row.get(name), flow=table.flow) for name in columns] for row in table.rows]
    widths = [max([len(head), *(len(line) for row in texts for line in row[index])]) for index, head in enumerate(heads)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    tall = any(len(cell) > 1 for row in texts for cell in row)
    output = [_title(rule, table.title), _line(heads, widths, columns), rule]
    for index, row in enumerate(texts):
        height = max(len(cell) for cell in row)
        output += [_line([cell[n] if n < len(cell) else "" for cell in row], widths, columns) for n in range(height)]
        if tall and index < len(texts) - 1:
            output.append(rule)
    return "\n".join([*output, rule])


def footer(views: Views, group: int | None = None) -> list[str]:
    """The lines below the pretty table; of several groups each names its own first."""
    lines: list[str] = []
    for number, view in views.items():
        own = _footer(view)
        lines += [f"Citus group: {number}", *own] if own and number is not None and group is None else own
    return lines


def _footer(view: ClusterView) -> list[str]:
    lines = [" Maintenance mode: on"] if ClusterMode.of(view).paused else []
    request = view.failover
    if request and request.scheduled_at:
        lines.append(f" Switchover scheduled at: {request.scheduled_at}")
        lines += [f"{label:>{_LABEL}}: {name}" for label, name in (("from", request.leader), ("to", request.candidate)) if name]
    return lines


def machine(table: Table, style: str, *, omit_empty: bool = True, delimiter: str = "\t") -> str:
    """The table for programs. ``omit_empty`` leaves empty values out of json and yaml, as for cluster tables."""
    if style == "tsv":
        rows = [[_flat(row.get(name)) for name in table.columns] for row in table.rows]
        return "\n".join(delimiter.join(row) for row in [list(table.columns), *rows])
    objects = [{name: row[name] for name in table.columns if name in row and not (omit_empty and _empty(row[name]))}
               for row in table.rows]
    return json.dumps(objects) if style == "json" else yaml_text(objects)


def yaml_text(document: Json) -> str:
    """Block style, keys sorted, text kept as it is (cli 3)."""
    import yaml

    text: str = yaml.safe_dump(document, default_flow_style=False, allow_unicode=True, width=200, sort_keys=True)
    return text


def show(table: Table, style: str, *, omit_empty: bool = True, delimiter: str = "\t") -> str:
    """The table in one of ``FORMATS``."""
    return pretty(table) if style == "pretty" else machine(table, style, omit_empty=omit_empty, delimiter=delimiter)


def _cells(row: MemberRow, with_ports: bool) -> dict[str, Json]:
    member = row.member
    host = f"{row.host}:{row.port}" if with_ports and row.host else row.host or ""
    receive: tuple[Json, Json] = ("", "")
    replay: tuple[Json, Json] = ("", "")
    if not row.leads:
        receive = _position(member.receive_lsn, row.receive_lag)
        replay = _position(member.replay_lsn, row.replay_lag)
        if member.receive_lsn is None and member.replay_lsn is None and member.xlog_location is not None:
            only = _position(member.xlog_location, row.lag)  # a member from before 4.1 publishes one position
            receive, replay = (only, replay) if row.state == "streaming" else (receive, only)
    data = member.data
    return {
        "Member": member.name, "Host": host, "Role": _ROLES[row.role], "State": row.state,
        "TL": "" if member.timeline is None else member.timeline,
        "Receive LSN": receive[0], "Receive Lag": receive[1], "Replay LSN": replay[0], "Replay Lag": replay[1],
        "Pending restart": "*" if data.get("pending_restart") else "",
        "Pending restart reason": _reasons(data.get("pending_restart_reason")),
        "Scheduled restart": _scheduled(data.get("scheduled_restart")),
        "Tags": dict(member.tags.raw),
        "Progress": _progress(data.get("progress")),
    }


def _progress(shown: Json) -> str:
    """What a member says of the copy it is making."""
    if not isinstance(shown, Mapping):
        return ""
    share, rate, left = (shown.get(name) for name in ("percent", "bytes_per_second", "seconds_left"))
    parts = [] if share is None else [f"{share} %"]
    if isinstance(rate, int) and rate > 0:
        parts.append(f"{rate / 1048576:.1f} MiB/s")
    if isinstance(left, int):
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return ", ".join(parts)


def _position(lsn: Json, lag_bytes: int | None) -> tuple[Json, Json]:
    return ("unknown" if lsn is None else str(lsn), "" if lag_bytes is None else round(lag_bytes / 1048576))


def _with_ports(rows: Sequence[MemberRow]) -> bool:
    hosts = [row.host for row in rows if row.host]
    return len(set(hosts)) < len(hosts) or any(row.port != 5432 for row in rows if row.host)


def _as_tree(rows: Sequence[MemberRow], cells: Sequence[dict[str, Json]]) -> list[dict[str, Json]]:
    """Leader first, each replica below the leader or the member of its ``replicatefrom``."""
    by_name = {row.member.name: cell for row, cell in zip(rows, cells, strict=True)}
    leader = next((row.member.name for row in rows if row.leads), None)
    above = {row.member.name: row.member.tags.replicatefrom if row.member.tags.replicatefrom in by_name else leader
             for row in rows if row.member.name != leader}
    ordered: list[dict[str, Json]] = []

    def place(name: str, depth: int) -> None:
        mark = "  " * (depth - 1) + "+ " if depth else ""
        ordered.append({**by_name[name], "Member": mark + name})
        for child in sorted(child for child, parent in above.items() if parent == name):
            place(child, depth + 1)

    for root in [leader] if leader else sorted(name for name, parent in above.items() if parent is None):
        place(root, 0)
    shown = {cell["Member"].strip("+ ") for cell in ordered}
    return ordered + [by_name[name] for name in sorted(set(by_name) - shown)]  # members that follow each other in a circle


def _reasons(value: Json) -> str:
    if not isinstance(value, Mapping):
        return ""
    return "\n".join(f"{name}: {change.get('old_value')}->{change.get('new_value')}" for name, change in sorted(value.items())
                     if isinstance(change, Mapping))


def _scheduled(value: Json) -> str:
    if not isinstance(value, Mapping) or not value.get("schedule"):
        return ""
    version = value.get("postgres_version")
    return f"{value['schedule']}" + (f" if version < {version}" if version else "")


def _lines(column: str, value: Json, *, flow: bool) -> list[str]:
    if isinstance(value, Mapping):
        return [_flat(value)] if flow or not value else yaml_text(value).rstrip().split("\n")
    lines = ("" if value is None else str(value)).split("\n")
    if column == "Pending restart reason":
        lines = [line if len(line) <= _LONG_REASON else f"{line.partition(':')[0]}: [hidden - too long]" for line in lines]
    return lines


def _flat(value: Json) -> str:
    if isinstance(value, Mapping):
        import yaml

        return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).strip() if value else ""
    return "" if value is None else str(value)


def _empty(value: Json) -> bool:
    return value is None or value == "" or value == {}


def _title(rule: str, title: str) -> str:
    return rule[0] + title + rule[1 + len(title):] if len(title) < len(rule) - 1 else f"+{title}+"


def _line(texts: Iterable[str], widths: Sequence[int], columns: Sequence[str]) -> str:
    padded = (f" {text:>{width}} " if column in _RIGHT else f" {text:<{width}} "
              for text, width, column in zip(texts, widths, columns, strict=True))
    return "|" + "|".join(padded) + "|"
