"""A cluster that an operator's command makes, and replicas that another command copies."""

from __future__ import annotations

from collections.abc import Callable

from harness import Cluster
from harness.configuration import BIN_DIR

MAKE = f"""#!/bin/sh
for word in "$@"; do case $word in --datadir=*) to=${{word#--datadir=}};; esac; done
echo "$@" > "$(dirname "$0")/made"
exec {BIN_DIR}/initdb -D "$to" -U postgres -k -A scram-sha-256 --pwfile="$(dirname "$0")/password"
"""
COPY = f"""#!/bin/sh
for word in "$@"; do case $word in
    --datadir=*) to=${{word#--datadir=}};; --connstring=*) from=${{word#--connstring=}};; esac; done
echo "$@" >> "$(dirname "$0")/copied"
exec {BIN_DIR}/pg_basebackup -D "$to" -X stream --checkpoint=fast -d "$from"
"""


def test_commands_make_the_cluster_and_its_replicas(make_cluster: Callable[..., Cluster]) -> None:
    """The first method fails on purpose, the second one copies (EC 180)."""
    cluster = make_cluster(size=2)
    for name, text in (("make.sh", MAKE), ("copy.sh", COPY), ("password", "whatever: the agent sets its own")):
        path = cluster.directory / name
        path.write_text(text)
        path.chmod(0o755)
    cluster.directory.chmod(0o777)
    for node in cluster.nodes:
        own = {"command": str(cluster.directory / "make.sh"), "stanza": "demo"}
        node.document["bootstrap"] |= {"method": "made", "made": own}
        node.document["postgresql"] |= {
            "create_replica_methods": ["failing", "copied"],
            "failing": {"command": "/bin/false"},
            "copied": {"command": str(cluster.directory / "copy.sh"), "level": 1},
        }
    cluster.bootstrap()
    primary = cluster.primary()
    assert f"--scope=demo --datadir={primary.data_dir} --stanza=demo" in (cluster.directory / "made").read_text()
    told = (cluster.directory / "copied").read_text()
    assert told.startswith(f"--level=1 --scope=demo --role=replica --datadir={cluster.others(primary)[0].data_dir} --connstring=")
    assert "rep-secret" not in told
    assert "replica method failing failed" in cluster.others(primary)[0].log()
    lines = (primary.data_dir / "pg_hba.conf").read_text().splitlines()
    assert [line for line in lines if "trust" in line] == ["local all all trust"]  # the bootstrap's own are gone
