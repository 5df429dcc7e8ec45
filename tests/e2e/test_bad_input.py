"""Mistakes in a node file or around it: one clear message, a failing exit code where the agent ends, and nothing deleted."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER
from harness.configuration import merged

END_S = 10.0


def _ends(node: Node, *words: str) -> str:
    """The agent ends with a failing code and a message with all of these words, without a stack trace; returns its log."""
    code = node.wait_ended(END_S)
    text = node.log()
    assert code not in (0, None), text
    assert [word for word in words if word not in text] == [], text
    assert "Traceback" not in text, text
    return text


def _says(node: Node, *words: str) -> None:
    """The agent goes on running and has written all of these words, without a stack trace."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: all(word in node.log() for word in words), END_S, "the message is written")
    assert [word for word in words if word not in node.log()] == [], node.log()
    assert node.running, node.log()
    assert "Traceback" not in node.log(), node.log()


@pytest.mark.parametrize(("change", "words"), [
    pytest.param({"scope": None, "name": None}, ("scope", "name", "required"), id="two required keys missing, both named"),
    pytest.param({"etcd3": None}, ("store", "etcd3", "raft"), id="no store"),
    pytest.param({"etcd3": {"hosts": []}}, ("etcd3", "hosts"), id="a store without an address"),
    pytest.param({"restapi": {"listen": "127.0.0.1"}}, ("restapi.listen", "127.0.0.1", "host:port"), id="REST without port"),
    pytest.param({"postgresql": {"listen": "nowhere"}}, ("postgresql.listen", "nowhere"), id="PostgreSQL address without port"),
    pytest.param({"bootstrap": {"dcs": {"ttl": "soon"}}}, ("bootstrap.dcs", "ttl", "soon"), id="ttl that is no number"),
    pytest.param({"etcd3": None, "raft": {"self_addr": "127.0.0.1:2222"}, "citus": {"group": 1, "database": "app"}},
                 ("citus", "raft", "etcd3"), id="groups that cannot see each other"),
    pytest.param({"postgresql": {"bin_dir": "/nonexistent/bin"}}, ("postgresql.bin_dir", "/nonexistent/bin"), id="no binaries"),
])
def test_mistake_in_the_node_file_ends_the_agent_before_it_touches_anything(
        make_cluster: Callable[..., Cluster], change: Mapping[str, Any], words: tuple[str, ...]) -> None:
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    node.document = merged(node.document, change)
    node.start()
    _ends(node, *words)
    assert not (node.directory / "data").exists()


@pytest.mark.parametrize(("text", "words"), [
    pytest.param("scope: [demo\nname: n1\n", ("node.yml", "YAML", "line 2"), id="broken YAML"),
    pytest.param("just words\n", ("node.yml", "mapping"), id="not a mapping"),
])
def test_file_that_is_no_node_file_is_refused_with_its_place(
        make_cluster: Callable[..., Cluster], text: str, words: tuple[str, ...]) -> None:
    node = make_cluster(size=1).nodes[0]
    node.start(text=text)
    _ends(node, *words)


def test_misspelt_keys_are_named_with_what_was_meant(make_cluster: Callable[..., Cluster]) -> None:
    node = make_cluster(size=1).nodes[0]
    node.document = merged(node.document, {"restpi": {}, "postgresql": {"paramters": {"work_mem": "4MB"}}})
    node.start()
    _says(node, "restpi", "restapi", "postgresql.paramters", "did you mean parameters")


def test_busy_rest_port_ends_the_agent_before_it_touches_anything(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    with socket.socket() as other:
        other.bind((node.host, node.rest_port))
        other.listen()
        node.start()
        _ends(node, "restapi.listen", str(node.rest_port), "in use")
    assert not node.data_dir.exists()


def test_busy_postgresql_port_is_named(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    with socket.socket() as other:
        other.bind((node.host, node.pg_port))
        other.listen()
        node.start()
        wait_for(lambda: f"{node.pg_port}" in node.log() and "in use" in node.log(), END_S, "the busy port is named")


def test_unreachable_store_is_waited_for(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1)
    node = cluster.nodes[0]
    assert cluster.etcd is not None
    node.start()
    _says(node, "waiting for the store", cluster.etcd.address)
    assert not node.data_dir.exists()
    cluster.start_store()
    assert cluster.primary() is node


@pytest.mark.parametrize("owner", [POSTGRES_USER, "nobody"])
def test_directory_with_something_else_in_it_is_left_alone(make_cluster: Callable[..., Cluster], owner: str) -> None:
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    node.data_dir.mkdir()
    (node.data_dir / "important.txt").write_text("the only copy")
    node.data_dir.chmod(0o700 if owner == POSTGRES_USER else 0)
    shutil.chown(node.data_dir, owner)
    node.start()
    _says(node, "data directory", "not empty", "pg_control")
    time.sleep(cluster.loop_wait + 1)
    assert (node.data_dir / "important.txt").read_text() == "the only copy"
    assert os.listdir(node.data_dir) == ["important.txt"]


def test_data_directory_of_another_cluster_is_refused_and_kept(make_cluster: Callable[..., Cluster]) -> None:
    other = make_cluster(size=1).bootstrap().nodes[0]
    other.query("INSERT INTO written VALUES (1)")
    foreign = other.system_identifier()
    other.stop()
    cluster = make_cluster(size=1).bootstrap()
    newcomer = cluster.add_node("n2")
    shutil.move(other.data_dir, newcomer.data_dir)
    before = sorted(os.listdir(newcomer.data_dir))
    newcomer.start()
    _ends(newcomer, "system identifier", str(foreign), str(cluster.primary().system_identifier()))
    assert sorted(os.listdir(newcomer.data_dir)) == before
    assert newcomer.postmaster_pid() is None


def test_second_agent_with_the_name_of_a_live_member_ends_and_disturbs_nothing(make_cluster: Callable[..., Cluster]) -> None:
    """(EC 19)"""
    cluster = make_cluster(size=1).bootstrap()
    first = cluster.nodes[0]
    pid = first.postmaster_pid()
    second = cluster.add_node("n2", {"name": "n1"})
    second.start()
    _ends(second, "n1", "already running", first.host)
    assert not second.data_dir.exists()
    assert (first.status_of("/primary"), first.postmaster_pid()) == (200, pid)


def test_wrong_passwords_are_named_by_user_and_nothing_is_promoted_or_lost(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1).bootstrap()
    primary = cluster.nodes[0]
    replication = cluster.add_node("n2", {"postgresql": {"authentication": {"replication": {"password": "wrong-1"}}}})
    superuser = cluster.add_node("n3", {"postgresql": {"authentication": {"superuser": {"password": "wrong-2"}}}})
    replication.start()
    superuser.start()
    _says(replication, "password authentication failed", "replicator")
    _says(superuser, "password authentication failed", "postgres", "postgresql.authentication.superuser")
    assert (primary.status_of("/primary"), superuser.status_of("/primary")) == (200, 503)
    assert not any("wrong-" in node.log() for node in cluster.nodes)
