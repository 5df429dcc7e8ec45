"""The configurations on the pages of the backup tools are read without a word: by the node, or as dynamic configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.configuration import merged
from pgcore.config.dynamic import effective
from pgcore.config.load import load_local
from pgcore.config.server import replica_methods as wanted_methods
from pgcore.daemon.methods import chosen_bootstrap, replica_methods
from pgcore.plugin import ServerSettings
from pgcore.registry import BUILTINS, Registry

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [(page, block) for page in ("pgbackrest", "barman", "point-in-time", "wal-e", "wal-g") if (DOCS / f"{page}.md").exists()
          for block in re.findall(r"```yaml\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)]
NODE: dict[str, Any] = {
    "scope": "demo", "name": "node1", "etcd3": {"hosts": ["127.0.0.1:2379"]}, "bootstrap": {"dcs": {}},
    "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"},
    "postgresql": {"listen": "127.0.0.1:5432", "connect_address": "127.0.0.1:5432", "data_dir": "/data", "pgpass": "/p/pgpass",
                   "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}}}}
SERVER = ServerSettings(name="a", scope="main", listen="127.0.0.1:5432", data_dir="/data")


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_configuration_of_the_page_is_one(page: str, block: str, tmp_path: Path) -> None:
    kind, document = block.splitlines()[0], yaml.safe_load(block)
    assert kind in ("# node file", "# dynamic configuration"), f"docs/{page}.md: say what the block is part of"
    registry = Registry()
    registry.activate([*BUILTINS, "etcd3"])
    path = tmp_path / "node.yml"
    path.write_text(yaml.safe_dump(merged(NODE, document) if kind == "# node file" else NODE))
    local = load_local(str(path), {}, registry.sections())
    found = effective(local, None if kind == "# node file" else document)
    assert [str(each) for each in (*local.warnings, *found.warnings)] == []
    for method, options in replica_methods(registry, wanted_methods(found)):
        method.keeps_data(options)
    method, options = chosen_bootstrap(registry, local)
    assert method.name == document.get("bootstrap", {}).get("method", "initdb")
    assert "restore_command" in method.recovery(options, SERVER) or method.name == "initdb"
