"""The program as a shell sees it: its two names, where its configuration comes from, completion (cli 1)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli.context import Session
from pgcore.errors import ConfigError, PluginError
from pgcore.registry import Registry

PGCORE = Path(sys.executable).with_name("pgcore")


@pytest.fixture
def patronictl(tmp_path: Path) -> Path:
    """The program under the older name: a link."""
    link = tmp_path / "bin" / "patronictl"
    link.parent.mkdir()
    link.symlink_to(PGCORE)
    return link


def run(program: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGCORE", "PATRONI", "DCS_URL", "XDG"))}
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, env={**kept, **environ}, check=False)


def test_a_link_of_the_older_name_makes_it_that_program(patronictl: Path) -> None:
    assert run(patronictl, "version").stdout == f"patronictl version {PATRONI_VERSION}\n"
    assert run(PGCORE, "version").stdout == f"pgcore version {__version__} (speaks Patroni {PATRONI_VERSION})\n"
    assert run(patronictl, "frobnicate").stderr.startswith("Usage: patronictl ")


def test_no_arguments_are_answered_with_help(patronictl: Path) -> None:
    done = run(patronictl)
    assert (done.returncode, "switchover" in done.stdout + done.stderr) == (2, True)


def test_the_environment_alone_names_a_store_that_is_told_by_its_addresses_after_a_bounded_time() -> None:
    began = time.monotonic()
    done = run(PGCORE, "topology", PATRONI_SCOPE="demo", PATRONI_ETCD3_HOSTS="127.0.0.1:1,127.0.0.1:2")
    assert (done.returncode, "127.0.0.1:1" in done.stderr, "127.0.0.1:2" in done.stderr) == (1, True, True)
    assert done.stderr.startswith("Error: etcd gave no answer") and time.monotonic() - began < 40


def test_own_variables_win_over_the_older_ones() -> None:
    environ = {"PATRONI_SCOPE": "older", "PGCORE_SCOPE": "own", "PATRONI_NAMESPACE": "cloud"}
    client = Session(None, None, False, environ).client
    assert (client.scope, client.namespace) == ("own", "cloud")


def test_the_environment_may_hold_the_whole_document() -> None:
    text = "{scope: demo, etcd3: {host: '127.0.0.1:1', port: x}}"
    done = run(PGCORE, "list", PATRONI_CONFIGURATION=text)
    assert (done.returncode, done.stderr.startswith("Error: PATRONI_CONFIGURATION:1: etcd3.port: ")) == (1, True), done.stderr


def test_a_variable_that_means_nothing_is_warned_of() -> None:
    done = run(PGCORE, "list", PATRONI_CTL_INSECURE="perhaps")
    assert "WARNING: PATRONI_CTL_INSECURE: ctl.insecure: is not taken from the environment" in done.stderr
    assert run(PGCORE, "list", PATRONI_CTL_INSECURE="perhaps", PATRONI_LOG_LEVEL="error").stderr.count("INSECURE") == 0


def test_each_name_has_a_file_of_its_own_and_falls_back_to_the_others(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    own, older = tmp_path / "pgcore" / "pgcorectl.yaml", tmp_path / "patroni" / "patronictl.yaml"
    found = [Session(None, None, False, environ, patronictl=older_name).path for older_name in (False, True)]
    assert found == [None, None]
    older.parent.mkdir()
    older.write_text("scope: older")
    assert Session(None, None, False, environ).scope(None) == "older"
    own.parent.mkdir()
    own.write_text("scope: own")
    assert Session(None, None, False, environ).scope(None) == "own"
    assert Session(None, None, False, environ, patronictl=True).scope(None) == "older"


def test_a_mac_keeps_the_file_where_its_programs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "Library" / "Application Support" / "patroni" / "patronictl.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("scope: there")
    monkeypatch.setattr("sys.platform", "darwin")
    assert Session(None, None, False, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "/nonexistent"}).scope(None) == "there"


@pytest.mark.parametrize(
    ("url", "store", "where", "namespace"),
    [
        ("etcd3://h:1/some/place", "etcd3", {"host": "h:1"}, "some/place"),
        ("etcd3://", "etcd3", {"host": "localhost:2379"}, "service"),
        ("etcd3://[::1]", "etcd3", {"host": "[::1]:2379"}, "service"),
        ("h:2379", "etcd", {"host": "h:2379"}, "service"),
        ("h", "etcd", {"host": "h:2379"}, "service"),
        (":4711/x/", "etcd", {"host": "localhost:4711"}, "x"),
    ],
)
def test_dcs_url_replaces_the_stores_of_the_configuration(
    tmp_path: Path, url: str, store: str, where: dict[str, str], namespace: str
) -> None:
    file = tmp_path / "node.yml"
    file.write_text("scope: demo\netcd3: {hosts: 'other:1'}\nraft: {partner_addrs: ['other:2']}\n")
    client = Session(str(file), url, False, {}).client
    section = client.plugin_sections[store]
    assert (client.stores, client.scope, client.namespace) == ((store,), "demo", namespace)
    assert {name: getattr(section, name) for name in where} == where and section.hosts is None


@pytest.mark.parametrize(
    ("url", "store"), [("consul://h", "consul"), ("h:8500", "consul"), ("h:2181/x", "zookeeper"), ("h:8181", "exhibitor")]
)
def test_dcs_url_knows_stores_that_are_not_installed(url: str, store: str) -> None:
    if store in Registry().names:
        pytest.skip(f"{store} is installed here")
    with pytest.raises(PluginError, match=store):
        _ = Session(None, url, False, {}).client


@pytest.mark.parametrize(("url", "store", "where"), [
    ("h:2181/x", "zookeeper", {"hosts": ["h:2181"]}), ("zookeeper://h:1", "zookeeper", {"hosts": ["h:1"]}),
    ("exhibitor://h", "exhibitor", {"hosts": ["h"], "port": 8181})])
def test_dcs_url_leads_to_zookeeper(url: str, store: str, where: dict[str, object]) -> None:
    client = Session(None, url, False, {}).client
    assert client.stores == (store,)
    assert {name: getattr(client.plugin_sections[store], name) for name in where} == where


@pytest.mark.parametrize(("url", "host"), [("consul://h", "h:8500"), ("h:8500", "h:8500"), ("consul://h:1/x", "h:1")])
def test_dcs_url_leads_to_consul(url: str, host: str) -> None:
    client = Session(None, url, False, {}).client
    assert (client.stores, client.plugin_sections["consul"].host) == (("consul",), host)


def test_dcs_url_takes_no_password() -> None:
    with pytest.raises(ConfigError, match="into the section etcd3 of the configuration"):
        _ = Session(None, "etcd3://user:word@h", False, {}).client


# -- completion ---------------------------------------------------------------------------------------------------------------


def _completed(program: Path, *lines: str) -> list[list[str]]:
    """What bash offers for the last word of each line."""
    name = program.name
    script = f'eval "$({name} completion bash)"; complete -p {name} >/dev/null || exit 3\n'
    for line in lines:
        script += f"COMPREPLY=(); COMP_WORDS=({name} {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _{name}_completion {name}\n"
        script += 'echo "${COMPREPLY[@]}"\n'
    done = run(Path("/bin/bash"), "-c", script, PATH=f"{program.parent}:{os.environ['PATH']}", PGCORE_SCOPE="demo")
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_commands_options_and_the_cluster(patronictl: Path) -> None:
    lines = ("show", "list --ext", "list --format ya", "restart d")
    assert _completed(PGCORE, *lines) == [["show-config"], ["--extended"], ["yaml"], ["demo"]]
    assert _completed(patronictl, "switch") == [["switchover"]]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell: str) -> None:
    assert "_PGCORE_COMPLETE" in run(PGCORE, "completion", shell).stdout
