"""``edit-config``: what it makes of options, files and an editor's text, and what it never writes (cli 4.2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pgcore.dcs.store import Key
from unit.test_cli_commands import Cluster, cluster  # noqa: F401

PARAMETERS = {"work_mem": "4MB", "max_connections": 100}
BEFORE = {"ttl": 30, "loop_wait": 10, "postgresql": {"use_slots": True, "parameters": PARAMETERS}}


@pytest.fixture
def edited(cluster: Cluster) -> Cluster:  # noqa: F811
    """A cluster with the configuration ``BEFORE``."""
    cluster.put(Key.CONFIG, json.dumps(BEFORE))
    return cluster


def stored(cluster: Cluster) -> dict[str, Any]:  # noqa: F811
    return json.loads(cluster.record(Key.CONFIG).value)


def edit(cluster: Cluster, *arguments: str, **options: Any) -> Result:  # noqa: F811
    return cluster.run("edit-config", *arguments, **options)


def test_a_change_is_shown_asked_for_and_written_as_compact_json(edited: Cluster) -> None:
    result = edit(edited, "-s", "ttl=31", input="y\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "--- \n+++ \n@@ -4,4 +4,4 @@\n     max_connections: 100\n     work_mem: 4MB\n   use_slots: true\n-ttl: 30\n+ttl: 31\n"
        "Apply these changes? [y/N]: y\nConfiguration changed\n"
    )
    assert edited.record(Key.CONFIG).value == json.dumps({**BEFORE, "ttl": 31}, separators=(",", ":"))


def test_a_no_or_the_end_of_input_writes_nothing(edited: Cluster) -> None:
    for answer in ("n\n", ""):
        result = edit(edited, "-s", "ttl=31", input=answer)
        assert (result.exit_code, result.stderr) == (1, "Aborted!\n")
    assert stored(edited) == BEFORE


def test_what_changes_nothing_is_not_written(edited: Cluster) -> None:
    version = edited.record(Key.CONFIG).version
    assert edit(edited, "-s", "ttl=30").stdout == "Not changed\n"
    assert edit(edited, "-s", "ttl=30", "-q", "-s", "postgresql.use_slots.deeper=null").stdout == ""
    assert edited.record(Key.CONFIG).version == version


def test_quiet_shows_only_what_was_done(edited: Cluster) -> None:
    assert edit(edited, "-q", "-s", "ttl=31", "--force").stdout == "Configuration changed\n"


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (("-p", "max_connections=null", "-p", "work_mem=null"), {"postgresql": {"use_slots": True}}),
        (("-p", "pg_stat_statements.max=5"), {"postgresql": {"parameters": {"pg_stat_statements.max": 5}}}),
        (("-s", "postgresql.parameters.auto_explain.log=on"), {"postgresql": {"parameters": {"auto_explain.log": True}}}),
        (("-s", "standby_cluster.host=h", "-s", "standby_cluster.port=5432"), {"standby_cluster": {"host": "h", "port": 5432}}),
        (("-s", "tags={a: [1, x]}"), {"tags": {"a": [1, "x"]}}),
        (("-p", "log_line_prefix=%m [%p] "), {"postgresql": {"parameters": {"log_line_prefix": "%m [%p] "}}}),
        (("-p", "archive_command=sh -c 'a: b'"), {"postgresql": {"parameters": {"archive_command": "sh -c 'a: b'"}}}),
        (("-p", "x.since=2020-01-01"), {"postgresql": {"parameters": {"x.since": "2020-01-01"}}}),
    ],
)
def test_single_values_are_set_by_path(edited: Cluster, arguments: tuple[str, ...], changed: dict[str, Any]) -> None:
    result = edit(edited, *arguments, "--force")
    assert result.exit_code == 0, result.output
    after = stored(edited)
    for key, value in changed.items():
        if key != "postgresql":
            assert after[key] == value
        elif "parameters" in value:
            assert value["parameters"].items() <= after["postgresql"]["parameters"].items()
        else:
            assert after["postgresql"] == value  # emptied parents are gone


def test_files_are_replaced_then_merged_then_single_values_set(edited: Cluster, tmp_path: Path) -> None:
    (tmp_path / "all.yml").write_text("ttl: 25\nloop_wait: 5\nretry_timeout: 5\n")
    (tmp_path / "some.yml").write_text("ttl: 26\nretry_timeout: null\nslots: {a: {type: physical}, b: null}\n")
    result = edit(edited, "-s", "loop_wait=3", "--apply", str(tmp_path / "some.yml"), "--replace", str(tmp_path / "all.yml"),
                  "--force")
    assert result.exit_code == 0, result.output
    assert stored(edited) == {"ttl": 26, "loop_wait": 3, "slots": {"a": {"type": "physical"}}}


def test_standard_input_shows_and_asks_for_force(edited: Cluster) -> None:
    result = edit(edited, "--apply", "-", input="ttl: 40\n")
    assert (result.exit_code, result.stdout.splitlines()[-2:]) == (0, ["+ttl: 40", "Use --force option to apply changes"])
    assert stored(edited) == BEFORE
    assert edit(edited, "--replace", "-", "--force", input="ttl: 40\n").exit_code == 0
    assert stored(edited) == {"ttl": 40}


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (("-s", "ttl"), "", "Invalid parameter setting ttl (write name=value)"),
        (("-s", "=1"), "", "Invalid parameter setting =1"),
        (("-s", "a..b=1"), "", "Invalid parameter setting a..b=1"),
        (("-s", "ttl=[1"), "", "ttl=[1 holds no YAML value: put it in quotes"),
        (("-s", "since=2020-01-01"), "", "is read as date: 2020-01-01 (put it in quotes to make it text)"),
        (("-s", "ttl=soon"), "", "ttl wants"),
        (("-s", "ttl.x=1"), "", "ttl wants"),
        (("-s", "synchronous_mode=perhaps"), "", "synchronous_mode wants"),
        (("--apply", "/nonexistent.yml"), "", "/nonexistent.yml cannot be read: No such file or directory"),
        (("--apply", "-"), "a: [1", "standard input:2: is not valid YAML"),
        (("--replace", "-"), "- 1", "standard input: wants a mapping of keys"),
        (("--replace", "-"), "", "but is empty"),
        (("--apply", "-"), "ttl: 1\nttl: 2\n", "ttl: is given twice"),
        (("--apply", "-", "--replace", "-"), "", "cannot both read standard input"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_is_written(
    edited: Cluster, arguments: tuple[str, ...], text: str, words: str
) -> None:
    result = edit(edited, *arguments, "--force", input=text)
    assert (result.exit_code, words in result.stderr) == (1, True), result.output
    assert stored(edited) == BEFORE


def test_an_unknown_key_is_written_with_a_warning_and_an_old_mistake_does_not_forbid_mending_another(edited: Cluster) -> None:
    edited.put(Key.CONFIG, '{"ttl":"soon","pause":"perhaps"}')
    result = edit(edited, "-s", "ttl=30", "-s", "mastr_start_timeout=1", "--force")
    assert result.exit_code == 0
    assert "Warning: pause wants true or false" in result.stderr
    assert "Warning: mastr_start_timeout is not a known key" in result.stderr
    assert stored(edited) == {"ttl": 30, "pause": "perhaps", "mastr_start_timeout": 1}


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets $EDITOR to a script, with arguments; temporary files go to ``tmp_path``."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def use(script: str, arguments: str = "") -> None:
        path = tmp_path / "editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("EDITOR", f"{path} {arguments}")

    return use


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(
    edited: Cluster, tmp_path: Path, editor: Callable[..., None]
) -> None:
    busy = tmp_path / "busy"
    editor(f"sed -i s/30/44/ $1; touch {busy}; while [ -e {busy} ]; do sleep 0.05; done")

    def change() -> None:
        edited.put(Key.CONFIG, '{"ttl":25}')
        busy.unlink()

    meanwhile = edited.after(busy.exists, change)
    result = edit(edited, "--force")
    meanwhile.join()
    assert (result.exit_code, result.stderr) == (1, "Error: Config modification aborted due to concurrent changes\n")
    assert stored(edited) == {"ttl": 25}


def test_an_editor_may_have_arguments_and_its_text_counts(edited: Cluster, tmp_path: Path, editor: Callable[..., None]) -> None:
    editor("sed -i s/30/$1/ $2", "44")
    result = edit(edited, input="y\n")
    assert (result.exit_code, stored(edited)["ttl"]) == (0, 44), result.output
    assert not list(tmp_path.glob("demo-config-*.yaml"))


@pytest.mark.parametrize(("text", "words"), [("ttl: [", "is not valid YAML"), ("ttl: soon", "ttl wants")])
def test_a_text_that_cannot_be_used_is_kept(
    edited: Cluster, tmp_path: Path, editor: Callable[..., None], text: str, words: str
) -> None:
    editor(f"echo '{text}' > $1")
    result = edit(edited, "--force")
    (kept,) = tmp_path.glob("demo-config-*.yaml")
    assert (result.exit_code, words in result.stderr, f"the text is kept in {kept}" in result.stderr) == (1, True, True)
    assert stored(edited) == BEFORE


def test_an_editor_that_fails_changes_nothing(edited: Cluster, tmp_path: Path, editor: Callable[..., None]) -> None:
    editor("exit 1")
    assert edit(edited, "--force").stderr == "Error: Editor exited with return code 1\n"
    (tmp_path / "editor").unlink()
    result = edit(edited, "--force")
    assert (result.exit_code, "cannot be run" in result.stderr, stored(edited)) == (1, True, BEFORE)
    assert not list(tmp_path.glob("demo-config-*.yaml"))


def test_a_cluster_without_a_configuration_has_nothing_to_edit(edited: Cluster) -> None:
    edited.put(Key.CONFIG, "not JSON")
    assert "use --replace" in edit(edited, "-s", "ttl=30", "--force").stderr
    assert edit(edited, "--replace", "-", "--force", input="ttl: 30\n").exit_code == 0
    assert stored(edited) == {"ttl": 30}
    edited.remove(Key.CONFIG)
    result = edit(edited, "-s", "ttl=30", "--force")
    assert (result.exit_code, result.stderr) == (1, "Error: The config key does not exist in the cluster demo\n")
