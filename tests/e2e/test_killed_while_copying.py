"""SIGKILL of the agent in the middle of each way to make a data directory: the next agent ends what still runs and succeeds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Cluster, wait_for
from harness.configuration import BIN_DIR
from harness.node import Node
from harness.processes import alive, all_pids

TIME_S = 90.0


@pytest.fixture(scope="module")
def pair(make_shared_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """One primary, alone at first."""
    cluster = make_shared_cluster(size=1)
    cluster.bootstrap()
    cluster.primary().query("CREATE TABLE ballast AS SELECT repeat('x', 7000) || n AS t FROM generate_series(1, 3000) n")
    yield cluster


def script(directory: Path, name: str, body: str) -> str:
    """A program that the agent can run as another user."""
    path = directory / name
    path.write_text("#!/bin/bash\n" + body)
    path.chmod(0o755)
    return str(path)


def commands(node: Node, word: str) -> list[int]:
    """The processes of this node with this word in their command line."""
    found = []
    for pid in all_pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if str(node.directory).encode() in line and word.encode() in line and alive(pid):
            found.append(pid)
    return found


def kill_in_the_middle(node: Node, word: str, half: Path) -> list[int]:
    """SIGKILL the agent while its tool works; the tool goes on."""
    wait_for(half.exists, TIME_S, "something is in the data directory")
    pids = wait_for(lambda: commands(node, word), TIME_S, f"{word} runs")
    node.kill_agent()
    assert any(alive(pid) for pid in pids), "the tool ended with the agent: nothing is proven"
    return pids


def ended(node: Node, pids: list[int]) -> None:
    """The tool is gone, and it was the agent that said so."""
    wait_for(lambda: not any(alive(pid) for pid in pids), TIME_S, "what the killed agent left is ended")
    assert "the agent before this one was killed while" in node.log()


def test_pg_basebackup_with_wal_and_tablespace_elsewhere(pair: Cluster) -> None:
    """The copy, the WAL directory, a mapped tablespace and one under the source's path are in nobody's way.

    That path is another directory for this node, as on a machine of its own.
    """
    primary, node = pair.primary(), pair.add_node("b")
    space, alike, own = primary.directory / "space", primary.directory / "alike", node.directory / "alike"
    node.write_file()
    for place in (space, alike, own, node.directory / "wal", node.directory / "space"):
        place.mkdir(exist_ok=True)
        shutil.chown(place, "postgres", "postgres")
    node.prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind {own} {alike} && exec "$0" "$@"')
    primary.query(f"CREATE TABLESPACE alike LOCATION '{alike}'")
    primary.query("CREATE TABLE beside TABLESPACE alike AS SELECT n FROM generate_series(1, 1000) n")
    primary.query(f"CREATE TABLESPACE side LOCATION '{space}'")
    primary.query("CREATE TABLE aside TABLESPACE side AS SELECT repeat('y', 7000) || n AS t FROM generate_series(1, 2000) n")
    node.document["postgresql"]["basebackup"] = [
        {"max-rate": "1M"}, {"waldir": str(node.directory / "wal")},
        {"tablespace-mapping": f"{space}={node.directory / 'space'}"}]
    node.start()
    pids = wait_for(lambda: commands(node, "pg_basebackup"), TIME_S, "pg_basebackup runs")
    wait_for(lambda: any((node.directory / "space").iterdir()), TIME_S, "the tablespace is being copied")
    shown = wait_for(lambda: node.status().get("pgcore", {}).get("task", {}).get("bytes_total"), TIME_S, "progress is shown")
    assert shown > 20 << 20
    node.kill_agent()
    assert any(alive(pid) for pid in pids)
    assert any(own.iterdir()), "nothing is in the way of the next attempt"
    node.document["postgresql"]["basebackup"][0] = {"max-rate": "1000M"}
    node.start()
    wait_for(node.streams, TIME_S, "the next attempt has made a replica")
    ended(node, pids)
    assert (node.data_dir / "pg_wal").resolve() == node.directory / "wal"
    assert node.ask("SELECT count(*) FROM aside") == 2000
    assert node.ask("SELECT count(*) FROM beside") == 1000
    assert os.listxattr(own) == os.listxattr(alike) == []
    assert not Path(f"{node.data_dir}.unfinished").exists()
    assert node.stop() == 0
    for table, name in (("aside", "side"), ("beside", "alike")):
        primary.query(f"DROP TABLE {table}")
        primary.query(f"DROP TABLESPACE {name}")


@pytest.mark.parametrize("keep", [False, True])
def test_replica_command(pair: Cluster, keep: bool) -> None:
    """A script with a child that hides from it: both are ended. With keep_data the next attempt finds what was there."""
    node = pair.add_node(f"c{int(keep)}")
    node.write_file()
    mark = node.directory / "second"
    body = f"""
    data=$(printf '%s\\n' "$@" | sed -n 's/^--datadir=//p'); conn=$(printf '%s\\n' "$@" | sed -n 's/^--connstring=//p')
    if [ ! -e {mark} ]; then touch {mark} $data/half; setsid bash -c "exec -a {node.directory}/tool sleep 600" & sleep 600; fi
    ls $data >{node.directory}/found; rm -f $data/half
    exec {BIN_DIR}/pg_basebackup -D $data -X stream -c fast -d "$conn"
    """
    tool = script(node.directory, "restore.sh", body)
    node.document["postgresql"] |= {"create_replica_methods": ["restore"],
                                    "restore": {"command": tool, **({"keep_data": True} if keep else {})}}
    node.start()
    pids = kill_in_the_middle(node, "tool", node.data_dir / "half")
    pids += commands(node, "restore.sh")
    node.start()
    wait_for(node.streams, TIME_S, "the next attempt has made a replica")
    ended(node, pids)
    assert (node.directory / "found").read_text().split() == (["half"] if keep else [])
    assert node.stop() == 0


def test_a_command_that_hangs_is_ended_and_the_next_attempt_succeeds(pair: Cluster) -> None:
    """Nobody kills anything: it waits for what never comes, with a child that it left, and is told from one that works."""
    node = pair.add_node("h")
    node.write_file()
    body = f"""
    [[ "$*" != *stall* ]] || exit 9
    data=$(printf '%s\n' "$@" | sed -n 's/^--datadir=//p'); conn=$(printf '%s\n' "$@" | sed -n 's/^--connstring=//p')
    if [ ! -e {node.directory}/second ]; then
        touch {node.directory}/second $data/half; echo waiting for the tape
        bash -c "exec -a {node.directory}/tool sleep 600" & wait; fi
    [ ! -e $data/half ] || exit 8
    exec {BIN_DIR}/pg_basebackup -D $data -X stream -c fast -r 8M -d "$conn"
    """
    node.document["postgresql"] |= {"create_replica_methods": ["restore"], "restore": {
        "command": script(node.directory, "restore.sh", body), "stall-timeout": 1.5}}
    node.start()
    wait_for(node.streams, TIME_S, "the next attempt has made a replica")
    assert "did nothing for as long as its stall-timeout allows" in node.log() and "waiting for the tape" in node.log()
    assert commands(node, "tool") == [] and node.log().count("replica method restore failed") == 1
    assert node.stop() == 0


@pytest.mark.parametrize("method", ["initdb", "restore", "users.sh"])
def test_a_new_cluster(make_cluster: Callable[..., Cluster], method: str) -> None:
    """The claim on /initialize is taken back by its owner; what was made is set aside, not removed. (EC 173)"""
    cluster = make_cluster(size=1)
    node = cluster.nodes[0]
    node.write_file()
    bin_dir = node.directory / "bin"
    bin_dir.mkdir()
    for program in BIN_DIR.iterdir():
        (bin_dir / program.name).symlink_to(program)
    slow = f"if [ ! -e {node.directory}/second ]; then touch {node.directory}/second ${{!#}}/half; sleep 600; fi\n"
    if method == "initdb":
        (bin_dir / "initdb").unlink()
        script(bin_dir, "initdb", f"[ $# = 1 ] || {{ {slow} }}\nexec {BIN_DIR}/initdb \"$@\"")
        node.document["postgresql"]["bin_dir"] = str(bin_dir)
    elif method == "users.sh":
        slow = f"if [ ! -e {node.directory}/second ]; then touch {node.directory}/second {node.data_dir}/half; sleep 600; fi\n"
        node.document["bootstrap"]["post_bootstrap"] = script(node.directory, method, slow)
    else:
        tool = script(node.directory, "restore.sh", f"set -- ${{2#--datadir=}}\n{slow} exec {BIN_DIR}/initdb -U postgres -k $1")
        node.document["bootstrap"] |= {"method": "restore", "restore": {"command": tool}}
    cluster.start_store()
    node.start()
    pids = kill_in_the_middle(node, method, node.data_dir / "half")
    server = node.postmaster_pid()
    assert (server is not None) == (method == "users.sh")
    assert cluster.etcd is not None and cluster.etcd.get(cluster.key("initialize")) == ""
    node.start()
    assert cluster.primary(TIME_S) is node
    ended(node, pids)
    assert cluster.etcd.get(cluster.key("initialize")) == str(node.system_identifier())
    assert Path(f"{node.data_dir}.failed", "half").exists() and not Path(f"{node.data_dir}.unfinished").exists()
