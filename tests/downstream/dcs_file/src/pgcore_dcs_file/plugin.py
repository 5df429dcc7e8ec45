"""Tells pgcore of the section ``file`` and the store behind it."""

from dataclasses import dataclass

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl, option

PGCORE_API_LEVEL = 1


@dataclass(frozen=True, slots=True)
class FileSection:
    """All nodes on one machine, or on a file system that honours flock between machines with one clock (so: on one machine)."""

    directory: str = option(doc="where the state is kept; every agent must be able to write there")


def open_store(request: StoreRequest) -> Store:
    """Imported here and not above: whoever uses another store does not load this one."""
    from pathlib import Path

    from pgcore_dcs_file.store import FileStore

    assert isinstance(request.section, FileSection)
    return FileStore(Path(request.section.directory + request.path), request.member, request.timing)


@hookimpl
def pgcore_stores() -> list[StoreBackend]:
    """The stores this plugin brings."""
    return [StoreBackend("file", FileSection, open_store)]
