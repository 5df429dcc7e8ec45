"""``pgcore plugin new``: names that are refused, nothing overwritten, and what is written fits the plugin's name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcore import __version__
from pgcore.cli.main import group
from pgcore.cli.plugin_new import KINDS, TEMPLATES


def new(output: Path, *words: str) -> Result:
    return CliRunner().invoke(group, ["plugin", "new", *words, "-o", str(output)], prog_name="pgcore")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_whole_distribution(tmp_path: Path, kind: str) -> None:
    done = new(tmp_path, "my_own", "--kind", kind)
    assert done.exit_code == 0, done.output
    (project,) = tmp_path.iterdir()
    assert project.name == f"pgcore-{kind}-my-own"
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    ((group_name, entries),) = described["entry-points"].items()
    assert (group_name, entries) == (KINDS[kind].group, {"my_own": f"pgcore_{kind}_my_own.plugin"})
    series = ".".join(__version__.split(".")[:2])
    assert described["dependencies"][0].startswith(f"pgcore>={series},<")
    written = sorted(path for path in project.rglob("*") if path.is_file())
    assert {".github/workflows/test.yml", "README.md", "tests/test_plugin.py", f"src/pgcore_{kind}_my_own/plugin.py"} <= {
        path.relative_to(project).as_posix() for path in written}
    for path in written:
        assert str(path) in done.output
        if path.suffix == ".py":
            compile(path.read_text(), path, "exec")
        assert "$" not in path.read_text().replace("${{ matrix.python }}", ""), path
    assert f"pgcore-{kind}" in done.output.split("Next:")[1]


@pytest.mark.parametrize(("name", "kind", "why"), [
    ("My-Store", "dcs", "lower-case letters"), ("a__b", "dcs", "single underscores"), ("../x", "dcs", "lower-case"),
    ("x" * 41, "dcs", "40 at most"), ("class", "dcs", "a word of Python"), ("postgresql", "dcs", "a section of pgcore"),
    ("etcd3", "dcs", "pgcore-dcs-etcd"), ("basebackup", "replica", "a plugin of pgcore,"),
    ("list", "command", "a command of pgcore"),
])
def test_a_name_that_could_not_be_used_is_refused_with_the_reason(tmp_path: Path, name: str, kind: str, why: str) -> None:
    done = new(tmp_path, name, "--kind", kind)
    assert done.exit_code == 2 and why in " ".join(done.output.split()) and "choose another" in done.output
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    assert new(tmp_path, "mine", "--kind", "callback").exit_code == 0
    plugin = tmp_path / "pgcore-callback-mine" / "src" / "pgcore_callback_mine" / "plugin.py"
    plugin.write_text("# edited")
    done = new(tmp_path, "mine", "--kind", "callback")
    assert done.exit_code == 1 and "is there already" in done.output
    assert plugin.read_text() == "# edited" and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = new(tmp_path / "file" / "below", "mine", "--kind", "callback")
    assert done.exit_code == 1 and done.output.startswith("Error: ") and "cannot be written" in done.output


def test_the_store_to_begin_with_is_short_enough_to_be_read() -> None:
    lines = [line.strip() for line in (TEMPLATES / "dcs" / "store.py.in").read_text().splitlines()]
    code = [line for line in lines if line and not line.startswith(("#", '"""'))]
    assert len(code) < 100
