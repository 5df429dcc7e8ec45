"""``pgcore plugins check``: what it says of plugins that are well made, heavy, unbounded, wrong or absent, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcore.cli.main import group

GOOD = "@hookimpl\ndef pgcore_callback(event):\n    pass\n"
BOUND = "pgcore (>=0.1,<0.2)"


class Shelf:
    """A folder of distributions with one entry point and one module each, as pip would put them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, source: str, *needs: str, entry_group: str = "pgcore") -> None:
        """Install a plugin."""
        (self._folder / f"checked_{name}.py").write_text("from pgcore.plugin import *\n" + source)
        info = self._folder / f"their_{name}-1.5.dist-info"
        info.mkdir()
        required = "".join(f"Requires-Dist: {need}\n" for need in needs)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 1.5\n{required}")
        (info / "entry_points.txt").write_text(f"[{entry_group}]\n{name} = checked_{name}\n")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Shelf(tmp_path)


def check(*words: str) -> Result:
    return CliRunner().invoke(group, ["plugins", "check", *words], prog_name="pgcore")


def test_a_plugin_in_order_passes_also_strictly(shelf: Shelf) -> None:
    shelf.put("neat", GOOD, BOUND)
    done = check("--strict", "neat")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("neat (their-neat 1.5)\n") and "implements pgcore_callback" in done.output
    assert "loads no library" in done.output


@pytest.mark.parametrize(("source", "needs", "said"), [
    ("import yaml\n" + GOOD, BOUND, "loads yaml: import that inside the function that uses it"),
    ("import time\ntime.sleep(0.1)\n" + GOOD, BOUND, "more than 30"),
    (GOOD, "pgcore>=0.1", "their-odd takes any version of pgcore"),
    (GOOD, "pgcore-dcs-etcd<2", "their-odd takes any version of pgcore"),
])
def test_what_an_author_should_mend_is_a_warning_that_fails_strictly(shelf: Shelf, source: str, needs: str, said: str) -> None:
    shelf.put("odd", source, needs)
    done = check("odd")
    assert done.exit_code == 0 and "warning" in done.output and said in done.output, done.output
    assert check("--strict", "odd").exit_code == 1


@pytest.mark.parametrize(("source", "said"), [
    ("import nowhere_to_be_had\n" + GOOD, "failed: ModuleNotFoundError"),
    ("PGCORE_API_LEVEL = 99\n" + GOOD, "built for API level 99"),
    ("@hookimpl\ndef pgcore_callback(occasion):\n    pass\n", "occasion"),
    ("@hookimpl\ndef pgcore_stores():\n    return ['a store']\n", "pgcore_stores brings 'a store', wanted a StoreBackend"),
    ("@hookimpl\ndef pgcore_rest_routes():\n    raise ValueError('no')\n", "failed in pgcore_rest_routes: ValueError: no"),
])
def test_what_cannot_be_used_is_an_error_with_its_reason(shelf: Shelf, source: str, said: str) -> None:
    shelf.put("bad", source, BOUND)
    done = check("bad")
    assert done.exit_code == 1 and "error" in done.output and said in done.output, done.output


def test_a_command_is_checked_by_what_is_typed(shelf: Shelf) -> None:
    body = "import click\n@hookimpl\ndef pgcore_cli_commands():\n    return [click.Command('{}')]\n"
    shelf.put("greet", body.format("greet"), BOUND, entry_group="pgcore.cli")
    shelf.put("lost", body.format("found"), BOUND, entry_group="pgcore.cli")
    assert (done := check("--strict", "greet")).exit_code == 0 and "brings command greet" in done.output, done.output
    assert (done := check("lost")).exit_code == 1 and "brings no command lost" in done.output, done.output


def test_what_is_not_installed_is_named_with_what_to_do() -> None:
    done = check("no_such_thing")
    assert done.exit_code == 1 and "no plugin no_such_thing is installed" in done.output and "initdb" in done.output
