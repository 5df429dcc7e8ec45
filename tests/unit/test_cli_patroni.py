"""The program under the names of Patroni's programs: modes, exit codes, what goes to which stream (cli 6, config 19)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from pgcore import PATRONI_VERSION

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI"))}
SECRET = "never-show-this"


def patroni(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None,
            name: str = "patroni") -> subprocess.CompletedProcess[str]:
    """The console script through a link of another name."""
    script = shutil.which("pgcore", path=os.path.dirname(sys.executable))
    assert script is not None, "the console script is not installed beside this interpreter"
    link = folder / name
    if not link.exists():
        link.symlink_to(script)
    return subprocess.run([link, *arguments], env={**CLEAN, **(environment or {})}, capture_output=True, text=True, timeout=30,
                          cwd=folder)


def node_file(folder: Path, store_port: int, **changes: object) -> Path:
    """A file without mistakes, if a store listens at the port."""
    listen = socket.create_server(("127.0.0.2", 0))
    ports = [listen.getsockname()[1]]
    with socket.create_server(("127.0.0.2", 0)) as other, listen:
        ports.append(other.getsockname()[1])
    folder.joinpath("bin").mkdir(exist_ok=True)
    for program in ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"):
        file = folder / "bin" / program
        file.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 15.4'\n")
        file.chmod(0o755)
    document = {
        "scope": "demo", "name": "a",
        "restapi": {"listen": f"127.0.0.2:{ports[0]}", "authentication": {"username": "u", "password": SECRET}},
        "etcd3": {"url": f"http://me:{SECRET}@127.0.0.2:{store_port}", "password": SECRET},
        "bootstrap": {"dcs": {"ttl": 30}},
        "postgresql": {"listen": f"127.0.0.2:{ports[1]}", "data_dir": f"{folder}/data", "bin_dir": f"{folder}/bin",
                       "os_user": "nobody",
                       "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "r"}}},
        **changes,
    }
    path = folder / "node.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture
def store_port() -> object:
    with socket.create_server(("127.0.0.2", 0)) as server:
        yield server.getsockname()[1]


def test_the_version_is_the_line_that_is_spoken_and_our_own(tmp_path: Path) -> None:
    done = patroni(tmp_path, "--version")
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["patroni", PATRONI_VERSION])


def test_a_good_file_is_accepted_in_silence(tmp_path: Path, store_port: int) -> None:
    done = patroni(tmp_path, "--validate-config", str(node_file(tmp_path, store_port)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_problem_is_a_line_on_standard_error_in_known_words(tmp_path: Path, store_port: int) -> None:
    path = node_file(tmp_path, store_port, name=None, log={"level": "LOUD"}, restapi={"listen": "127.0.0.2"})
    done = patroni(tmp_path, str(path), "--validate-config")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert any(line.startswith("name is not defined.") for line in lines), lines
    assert any(line.startswith("log.level LOUD didn't pass validation: ") for line in lines), lines
    assert any(line.startswith("restapi.listen 127.0.0.2 didn't pass validation: ") for line in lines), lines


@pytest.mark.parametrize(("store", "told"), [
    ({"etcd3": {}}, "etcd3 didn't pass validation: nothing says where etcd is"),
    ({"etcd3": None, "raft": {"partner_addrs": ["10.0.0.1:1"]}}, "raft.self_addr"),
    ({"etcd3": None, "raft": {"self_addr": "10.0.0.1:1", "partner_addrs": ["10.0.0.2:1"]}}, "raft.password")])
def test_what_the_stores_plugin_refuses_is_told_before_the_agent_meets_it(
        tmp_path: Path, store_port: int, store: dict[str, object], told: str) -> None:
    done = patroni(tmp_path, "--validate-config", str(node_file(tmp_path, store_port, **store)))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith(told), done.stderr


def test_a_busy_port_counts_unless_it_is_to_be_ignored(tmp_path: Path, store_port: int) -> None:
    path = node_file(tmp_path, store_port, restapi={"listen": f"127.0.0.2:{store_port}"})
    busy = patroni(tmp_path, "--validate-config", str(path))
    assert busy.returncode == 1 and f"restapi.listen 127.0.0.2:{store_port} didn't pass validation" in busy.stderr
    assert patroni(tmp_path, "--validate-config", "-i", str(path)).returncode == 0
    assert patroni(tmp_path, "--validate", "--ignore", str(path)).returncode == 0, "options may be cut short"


@pytest.mark.parametrize("name", ["patroni", "pgcore"])
def test_the_merged_configuration_is_printed_without_secrets(tmp_path: Path, store_port: int, name: str) -> None:
    path = node_file(tmp_path, store_port, postgresql=None)
    environment = {"PATRONI_SCOPE": "from-patroni", "PGCORE_NAME": "from-pgcore", "PATRONI_SUPERUSER_PASSWORD": SECRET}
    mode = ["--validate-config"] if name == "patroni" else ["validate"]
    done = patroni(tmp_path, *mode, "--print", str(path), environment=environment, name=name)
    assert done.returncode == 1, "postgresql is missing"
    document = yaml.safe_load(done.stdout)
    assert (document["scope"], document["name"]) == ("from-patroni", "from-pgcore")
    assert document["postgresql"]["authentication"]["superuser"]["password"] == "***"
    assert document["etcd3"] == {"url": f"http://me:***@127.0.0.2:{store_port}", "password": "***"}
    assert SECRET not in done.stdout + done.stderr
    if name == "pgcore":
        shown = patroni(tmp_path, "validate", "-p", "--secrets", str(path), environment=environment, name=name)
        assert yaml.safe_load(shown.stdout)["restapi"]["authentication"]["password"] == SECRET


def test_a_generated_sample_is_replaced_and_the_old_one_kept(tmp_path: Path) -> None:
    out = tmp_path / "etc" / "patroni" / "node.yml"
    first = patroni(tmp_path, "--generate-sample-config", str(out), environment={"PATRONI_SCOPE": "one"})
    assert first.returncode == 0 and "written" in first.stderr, first.stderr
    second = patroni(tmp_path, "--generate-sample-config", str(out), environment={"PATRONI_SCOPE": "two"})
    assert second.returncode == 0 and f"what was there is now {out}.old" in second.stderr
    documents = [yaml.safe_load(path.read_text()) for path in (Path(f"{out}.old"), out)]
    assert [document["scope"] for document in documents] == ["one", "two"]
    assert sorted(out.parent.iterdir()) == [out, Path(f"{out}.old")] and out.stat().st_mode & 0o777 == 0o600
    dcs = documents[1]["bootstrap"]["dcs"]
    assert (dcs["ttl"], dcs["loop_wait"], dcs["retry_timeout"]) == (30, 10, 10), "the timing of a cluster with Patroni members"


def test_without_a_file_the_sample_goes_to_standard_output(tmp_path: Path) -> None:
    done = patroni(tmp_path, "--generate-sample-config")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["scope"] == "#FIXME"
    assert done.stderr.startswith("replace #FIXME in: scope, ") and os.listdir(tmp_path) == ["patroni"]


def test_pgcore_leaves_a_file_alone_that_is_there(tmp_path: Path) -> None:
    out = tmp_path / "node.yml"
    out.write_text("mine")
    done = patroni(tmp_path, "generate-sample-config", str(out), name="pgcore")
    assert done.returncode == 1 and f"{out} exists and was not touched" in done.stderr and out.read_text() == "mine"
    forced = patroni(tmp_path, "generate-sample-config", "--force", str(out), name="pgcore")
    assert forced.returncode == 0 and (tmp_path / "node.yml.old").read_text() == "mine"
    assert patroni(tmp_path, "generate-sample-config", f"{out}/below.yml", name="pgcore").returncode == 1


def test_conflicting_modes_and_unknown_options_are_wrong_usage(tmp_path: Path) -> None:
    assert patroni(tmp_path, "--validate-config", "--generate-config").returncode == 2
    assert patroni(tmp_path, "--no-such-option").returncode == 2
    assert patroni(tmp_path, "a.yml", "b.yml").returncode == 2
    assert patroni(tmp_path, "validate", "--secrets", name="pgcore").returncode == 2


def test_an_empty_configuration_ends_the_agent(tmp_path: Path) -> None:
    for arguments in ((), ("--print",)):
        done = patroni(tmp_path, *arguments)
        assert done.returncode == 1 and "Config is empty." in done.stderr and "Traceback" not in done.stderr
    assert "--print has no effect without --validate-config" in done.stderr
    checked = patroni(tmp_path, "--validate-config")
    assert checked.returncode == 1 and checked.stderr.startswith("Config is empty. (name a file")
    checked = patroni(tmp_path, "--validate-config", "none.yml")
    assert checked.returncode == 1 and checked.stderr.startswith("none.yml: does not exist (")


def test_the_environment_alone_is_a_configuration(tmp_path: Path, store_port: int) -> None:
    text = node_file(tmp_path, store_port).read_text()
    done = patroni(tmp_path, "--validate-config", environment={"PATRONI_CONFIGURATION": text})
    assert (done.returncode, done.stderr) == (0, "")
    done = patroni(tmp_path, "--validate-config", "-p", environment={"PATRONI_SCOPE": "s", "PGCORE_NAME": "n"})
    assert done.returncode == 1 and yaml.safe_load(done.stdout) == {"name": "n", "scope": "s"}
    assert "postgresql.data_dir is not defined." in done.stderr and "has no section for a store" in done.stderr


def test_a_file_makes_it_the_agent(tmp_path: Path) -> None:
    (tmp_path / "node.yml").write_text("scope: [\n")
    done = patroni(tmp_path, "node.yml")
    assert done.returncode == 1 and done.stderr.startswith("pgcore: node.yml:") and "is not valid YAML" in done.stderr


def test_the_module_takes_the_same_modes(tmp_path: Path, store_port: int) -> None:
    path = node_file(tmp_path, store_port)
    done = subprocess.run([sys.executable, "-m", "pgcore", str(path), "--validate-config"], env=CLEAN, capture_output=True,
                          text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_patronictl_is_the_command_line(tmp_path: Path) -> None:
    done = patroni(tmp_path, "--help", name="patronictl")
    assert done.returncode == 0 and "switchover" in done.stdout and "show-config" in done.stdout
