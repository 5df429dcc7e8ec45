"""Which plugins a local configuration names: installed means available, named means active. (architecture 9)"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pgcore.config.sections import DISTRIBUTION_OF, PLUGIN_SECTIONS, SECTIONS
from pgcore.model.basics import Json


def named_plugins(tree: Mapping[str, Json], installed: Collection[str]) -> list[str]:
    """Those whose section is there, that make replicas or clusters, or that ``plugins.use`` names.

    A known section and a name of ``plugins.use`` count although they are not installed: the agent does not work without.
    """
    own = SECTIONS.keys() - {"citus"} | {"tags", "plugins"}
    known = DISTRIBUTION_OF.keys() | PLUGIN_SECTIONS.keys()
    named = [name for name in tree if name in known or (name in installed and name not in own)]
    named += [name for name in named_methods(tree) if name in installed]
    return list(dict.fromkeys([*named, *_words(tree, "use")]))


def named_methods(tree: Mapping[str, Json]) -> list[str]:
    """The names it gives to ways of making replicas and clusters, as far as they can be read."""
    server, creation = tree.get("postgresql"), tree.get("bootstrap")
    server, creation = (section if isinstance(section, Mapping) else {} for section in (server, creation))
    names = server.get("create_replica_methods") or server.get("create_replica_method") or ()
    words = names.split(",") if isinstance(names, str) else names if isinstance(names, list | tuple) else ()
    return [str(word).strip() for word in (*words, creation.get("method") or "")]


def blocked_plugins(tree: Mapping[str, Json]) -> list[str]:
    """Names that are never imported (``plugins.block``)."""
    return _words(tree, "block")


def _words(tree: Mapping[str, Json], key: str) -> list[str]:
    section = tree.get("plugins")
    words = section.get(key) if isinstance(section, Mapping) else None
    return words.split(",") if isinstance(words, str) else [str(word) for word in words or ()]
