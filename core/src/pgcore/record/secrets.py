"""Secrets stay out of the record: by the name of the key, and by what a text looks like."""

from __future__ import annotations

import re

from pgcore.model.basics import Json
from pgcore.model.secrets import HIDDEN, text_without_secrets

_DOCUMENTS = frozenset(
    {"dynamic", "document", "data", "card", "raw", "tags", "pending_restart", "progress", "shown", "standby_cluster"}
)
"""Only what is below these has keys that somebody configured; elsewhere a key may be the name of a member."""
_KEYS = re.compile(
    r"passw|passphrase|secret|token|credential|private_key|auth_data|conninfo|_command$|^pg_(hba|ident)(_|$)|^authentication$",
    re.IGNORECASE,
)
"""Commands and lines of pg_hba.conf may hold a password anywhere."""


def without_secrets(tree: Json, *, configured: bool = False) -> Json:
    """The same tree with ``***`` for every secret. What is empty stays empty; doing it twice changes nothing more.

    ``configured``: the tree is a document that somebody wrote, so the names of its keys count.
    """
    if isinstance(tree, str):
        return text_without_secrets(tree)
    if isinstance(tree, dict):
        return {
            key: _hidden(item) if configured and _KEYS.search(key)
            else without_secrets(item, configured=configured or key in _DOCUMENTS)
            for key, item in tree.items()
        }
    if isinstance(tree, list):
        return [without_secrets(item, configured=configured) for item in tree]
    return tree


def _hidden(tree: Json) -> Json:
    if isinstance(tree, dict):
        return {key: item if key == "is" else _hidden(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_hidden(item) for item in tree]
    return tree if tree is None or tree is True or tree is False or tree == "" else HIDDEN
