"""Who may import whom (architecture 3). Every failure says the sentence of the rule it breaks."""

from __future__ import annotations

import sys

import pytest

from house.sources import Import, imports, python_files

PURE = ("time", "random", "os", "socket", "threading", "logging", "subprocess")
DOORS = ("pgcore.plugin", "pgcore.net.http")
"""What a plugin may import: the one door, and the small HTTP client for stores that speak HTTP."""
BESIDES = {"dcs": ("net",), "postgres": ("hookspecs",)}
"""The words of the hooks are what the server port hands to replica and bootstrap methods."""
PORTS = ("postgres", "dcs", "net", "config")
FRAMEWORKS = {
    "click": "cli", "rich": "cli", "cherrypy": "rest", "cheroot": "rest", "psycopg2": "postgres", "msgspec": "config",
    "prometheus_client": "rest",
}


def of(package: str) -> list[Import]:
    return [each for path in python_files(f"core/src/pgcore/{package}") for each in imports(path)]


def own(found: list[Import]) -> list[Import]:
    return [each for each in found if each.top == "pgcore"]


def refuse(broken: list[Import], rule: str) -> None:
    assert not broken, "\n".join([rule, *(f"  {each}" for each in broken)])


def test_the_model_imports_data_modules_of_the_standard_library_only() -> None:
    refuse([each for each in of("model") if each.top not in sys.stdlib_module_names and not each.within("pgcore.model")],
           "`model` imports the standard library's data modules only.")


def test_decisions_import_the_model_only() -> None:
    refuse([each for each in of("decide") if each.top not in sys.stdlib_module_names
            and each.module != "pgcore" and not each.within("pgcore.model", "pgcore.decide")],
           "`decide` imports `model` only (and the version numbers of `pgcore` itself).")


@pytest.mark.parametrize("package", ["model", "decide", "migrate"])
def test_the_core_has_no_clock_no_chance_and_no_world(package: str) -> None:
    refuse([each for each in of(package) if each.top in PURE],
           "In `model`, `decide` and `migrate`, importing " + ", ".join(f"`{name}`" for name in PURE) + " is an error.")


@pytest.mark.parametrize("package", PORTS)
def test_a_port_knows_neither_the_other_ports_nor_the_rules(package: str) -> None:
    allowed = [package, "model", "clock", "threads", "errors", *BESIDES.get(package, ())]
    refuse([each for each in own(of(package)) if each.module != "pgcore"
            and not each.within(*(f"pgcore.{name}" for name in allowed))],
           f"`{package}` may import {', '.join(allowed)}; `postgres`, `dcs`, `net` and `config` never import each other "
           "(except `dcs` → `net`) and never `decide`.")


@pytest.mark.parametrize("package", ["rest", "cli"])
def test_rest_and_command_line_see_the_daemon_through_board_and_mailbox(package: str) -> None:
    refuse([each for each in own(of(package)) if each.within("pgcore.daemon", "pgcore.decide")
            and not each.within(*(f"pgcore.{name}" for name in (
                "daemon.board", "daemon.mailbox", "decide.explain", "decide.forecast")))],
           "`rest` and `cli` see the daemon through `board` and `mailbox`, or the store through `dcs`.")


def test_the_record_knows_the_heartbeat_and_nothing_else_of_the_daemon() -> None:
    allowed = [f"pgcore.{name}" for name in ("record", "model", "decide", "daemon.heartbeat", "clock", "threads", "errors")]
    refuse([each for each in own(of("record")) if each.module != "pgcore" and not each.within(*allowed)],
           "`record` imports the model, the decisions and the heartbeat: agent, command line and simulator use it.")


def test_the_daemon_is_not_imported_by_what_it_composes() -> None:
    found = [each for package in (*PORTS, "model", "decide", "builtin") for each in own(of(package))]
    refuse([each for each in found if each.within("pgcore.daemon", "pgcore.rest", "pgcore.cli", "pgcore.testing")],
           "`daemon`, `rest`, `cli` and `testing` stand above everything else and are imported by nothing below.")


def test_built_ins_come_through_the_same_door_as_plugins() -> None:
    refuse([each for each in own(of("builtin")) if not each.within("pgcore.plugin", "pgcore.builtin")],
           "A built-in imports `pgcore.plugin` only.")


def test_our_own_plugins_are_held_to_the_door_of_everybody_else() -> None:
    sources = [path for path in python_files("plugins") if "src" in path.parts]
    refuse([each for path in sources for each in own(imports(path)) if each.module not in DOORS],
           "A plugin imports `pgcore.plugin` only (and `pgcore.net.http` if its store speaks HTTP).")


@pytest.mark.parametrize(("library", "package"), FRAMEWORKS.items())
def test_a_library_has_one_room(library: str, package: str) -> None:
    found = [each for path in python_files("core/src/pgcore") if "testing" not in path.parts and package not in path.parts
             for each in imports(path) if each.top == library]
    refuse(found, f"`{library}` is imported in `{package}` only, so that nothing else pays for it or depends on it.")
