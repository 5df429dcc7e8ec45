"""The configurations in docs/rest.md are real: each is loaded and a REST API started with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.processes import free_port
from pgcore.config.load import load_local
from pgcore.config.schema import option
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.certificates import Authority
from unit.rest_board import call

EXAMPLES = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "rest.md").read_text(), re.DOTALL)
REST = """
scope: demo
name: node1
etcd3: {hosts: ['127.0.0.1:2379']}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /nowhere
  authentication: {replication: {username: replicator}}
"""


@dataclass(frozen=True, kw_only=True)
class Etcd:
    """As the plugin's section."""

    hosts: tuple[str, ...] = option(doc="endpoints")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[-1].split(":")[0].strip())
def test_an_example_works(example: str, tmp_path: Path, authority: Authority, board: Board) -> None:
    (authority.folder / "api-password").write_text("secret\n")
    here = {"10.0.0.11:8008": f"127.0.0.1:{free_port()}", "[fd00::10]:8008": f"[::1]:{free_port('127.0.0.3')}",
            "/etc/pgcore": str(authority.folder), "ops.example.com": "localhost"}
    for there, mine in here.items():
        example = example.replace(there, mine)
    (tmp_path / "node.yml").write_text(example + REST)
    local = load_local(str(tmp_path / "node.yml"), {}, {"etcd3": Etcd})
    assert not [warning for warning in local.warnings if "restapi" in str(warning) or "ctl" in str(warning)]
    settings = RestSettings.of(local.restapi)
    server = RestServer(settings, board, Mailbox(), lambda seconds: None)
    server.start()
    try:
        context = authority.client() if settings.tls else None
        for address in server.bound:
            assert call(address, "OPTIONS", "/", context=context).code == 200
        refused = call(server.bound[0], "POST", "/reload", context=context)
        assert (refused.code, refused.body) == (
            (403, "client certificate required") if settings.tls else
            (401, "no auth header received") if settings.authenticates else (202, "reload scheduled"))
    finally:
        server.stop()
