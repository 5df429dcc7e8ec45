"""The znodes of one scope: paths, the ACL they are created with, and what a version says (dcs-layout 8)."""

from __future__ import annotations

from collections.abc import Iterator

from kazoo.protocol.serialization import CheckVersion, Create, Transaction
from kazoo.protocol.states import ZnodeStat
from kazoo.security import ACL, OPEN_ACL_UNSAFE, make_acl

from pgcore.plugin import MEMBERS, Key
from pgcore_dcs_zookeeper.section import Access, permissions

EPHEMERAL = 1
WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)
NO_SYNC = "{}"
"""What stands in ``sync`` while there is no such key: it is emptied, never deleted, so that its versions go on (dcs-layout 4)."""


class Tree:
    """Where the keys of a scope are. ``path`` is the scope's, below ``chroot``."""

    def __init__(self, chroot: str, path: str, member: str, section: Access, name: str) -> None:
        self.root = chroot + path
        self.leader = self.path(Key.LEADER)
        self.members = f"{self.root}/{MEMBERS.rstrip('/')}"
        self.card = f"{self.members}/{member}"
        self.acl: list[ACL] = [_acl(*line) for line in permissions(section, name)] or OPEN_ACL_UNSAFE

    def path(self, key: str) -> str:
        """The znode of a key."""
        return f"{self.root}/{key}"

    def create(self, path: str, value: str, *, ephemeral: bool = False) -> Create:
        """The request that creates a znode."""
        return Create(path, value.encode(), self.acl, EPHEMERAL if ephemeral else 0)

    def above(self, path: str) -> list[str]:
        """The znodes that must exist for this one to be created, the highest first."""
        return list(_above(path))

    def barrier(self) -> Transaction:
        """Changes nothing, but goes through the ensemble's log: whoever answers it has a majority behind it right now.

        ZooKeeper's own ``sync`` proves less: a leader that was cut off and does not know it yet answers it alone.
        """
        return Transaction([CheckVersion("/", -1)])


def version_of(stat: ZnodeStat) -> str:
    """The version of a key: which creation of its znode, and how many writes since. Never repeats."""
    return made(stat.czxid, stat.version)


def made(created: int, version: int) -> str:
    """The version of the znode that transaction ``created`` made."""
    return f"{created:x}.{version}"


def text(data: bytes | None) -> str:
    """A znode's value; what is no text is shown as well as it can be."""
    return (data or b"").decode(errors="replace")


def _above(path: str) -> Iterator[str]:
    at = path.find("/", 1)
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _acl(scheme: str, credential: str, words: frozenset[str]) -> ACL:
    if "ALL" in words:
        return make_acl(scheme, credential, all=True)
    return make_acl(scheme, credential, **{word.lower(): True for word in words})
