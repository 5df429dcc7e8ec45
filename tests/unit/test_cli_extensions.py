"""Commands of plugins: listed without being imported, and a broken one in nobody's way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcore.cli.main import COMMANDS, group

Install = Callable[..., None]
TOY = """
import click
from pgcore.plugin import CliSession, hookimpl
@click.command()
@click.argument("name", required=False)
@click.option("--loud", is_flag=True, help="More of it.")
@click.pass_obj
def greet(session: CliSession, name, loud):
    "Say hello."
    click.echo("hello " + session.scope(name) + "!" * loud)
@click.command("part")
def part():
    raise SystemExit(7)
@hookimpl
def pgcore_cli_commands():
    return [greet, part]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with these commands, all of one module, on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    def install(source: str, *commands: str, distribution: str = "acme-tools") -> None:
        module = f"pgcore_clitest_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text("[pgcore.cli]\n" + "".join(f"{name} = {module}\n" for name in commands))

    yield install
    for module in [name for name in sys.modules if name.startswith("pgcore_clitest_")]:
        del sys.modules[module]


def imported(distribution: str = "acme-tools") -> bool:
    return f"pgcore_clitest_{distribution.replace('-', '_')}" in sys.modules


def run(*words: str) -> Result:
    return CliRunner().invoke(group, list(words), prog_name="pgcore")


def test_help_lists_commands_of_plugins_with_their_distribution_and_imports_none(install: Install) -> None:
    install(TOY, "greet", "part")
    shown = run("--help")
    assert shown.exit_code == 0 and not imported()
    own, brought = shown.output.split("Commands of plugins:")
    rows = [line.split() for line in brought.split("\n\n")[0].strip().splitlines()]
    assert [row for row in rows if not row[2].startswith("pgcore-")] == [
        ["greet", "of", "acme-tools", "1.5"], ["part", "of", "acme-tools", "1.5"]]
    assert all(f"  {name} " in own for name in (*COMMANDS, "run"))


def test_without_such_plugins_help_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not list(Path(entry or ".").glob("pgcore_*.dist-info"))])
    assert "plugins:" not in run("--help").output


def test_a_command_of_a_plugin_has_options_help_and_exit_codes_of_its_own(install: Install) -> None:
    install(TOY, "greet", "part")
    assert run("greet", "--loud", "demo").output == "hello demo!\n"
    assert "More of it." in run("greet", "--help").output
    assert run("part").exit_code == 7


def test_what_pgcore_raises_for_a_command_of_a_plugin_is_an_error_without_a_stack_trace(install: Install) -> None:
    install(TOY, "greet")
    done = run("greet")
    assert done.exit_code == 1 and "Error: scope: no cluster is named" in done.output and "Traceback" not in done.output


def test_no_plugin_takes_the_place_of_a_command_of_pgcore(install: Install) -> None:
    install(TOY.replace("def greet", "def plugins").replace("[greet,", "[plugins,"), "plugins", "run")
    assert "acme-tools" not in run("--help").output
    assert "installed plugins" in run("plugins", "--help").output
    assert not imported()


@pytest.mark.parametrize(("source", "told"), [
    ("import no_such_library\n", "No module named 'no_such_library' (pip install --force-reinstall acme-tools)"),
    ("raise SystemExit('bye')\n", "SystemExit: bye"),
    ("PGCORE_API_LEVEL = 0\n", "built for API level 0"),
    ("", "implements no hook of pgcore"),
    (TOY, "brings no click command with the name broken"),
    ("from pgcore.plugin import hookimpl\n@hookimpl\ndef pgcore_cli_commands(): return [print]\n", "brings no click command"),
    ("from pgcore.plugin import hookimpl\n@hookimpl\ndef pgcore_cli_commands(): raise KeyError('moon')\n", "KeyError: 'moon'"),
])
def test_a_broken_command_is_an_error_when_it_is_called_and_only_then(install: Install, source: str, told: str) -> None:
    install(source, "broken")
    assert run("--help").exit_code == 0 and run("plugins", "--help").exit_code == 0
    assert not imported()
    for arguments in (["broken"], ["broken", "--help"], ["broken", "x", "--loud=2"]):
        done = run(*arguments)
        assert done.exit_code == 1 and told in done.output, done.output
        assert "Traceback" not in done.output


def test_two_distributions_that_claim_one_command_are_both_named(install: Install) -> None:
    install(TOY, "greet")
    install(TOY, "greet", distribution="other-tools")
    done = run("greet", "demo")
    assert done.exit_code == 1 and "claimed by acme-tools and other-tools: uninstall all but one" in done.output


def test_shells_complete_commands_of_plugins_also_beside_a_broken_one(install: Install) -> None:
    install("import no_such_library\n", "grief")
    install(TOY, "greet", distribution="other-tools")
    for begun, whole in (("gre", "greet"), ("gri", "grief")):
        words = {"_PGCORE_COMPLETE": "bash_complete", "COMP_WORDS": f"pgcore {begun}", "COMP_CWORD": "1"}
        done = CliRunner(env=words).invoke(group, [], prog_name="pgcore", complete_var="_PGCORE_COMPLETE")
        assert f"plain,{whole}" in done.output and "Traceback" not in done.output
