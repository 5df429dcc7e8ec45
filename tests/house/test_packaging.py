"""One number for all distributions, requirements that let them be installed together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import pgcore
from house.sources import ROOT, relative

PROJECTS = sorted([ROOT / "core" / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")])


def project(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        table = tomllib.load(file)["project"]
    assert isinstance(table, dict)
    return table


@pytest.mark.parametrize("path", PROJECTS, ids=relative)
def test_every_distribution_has_the_one_number(path: Path) -> None:
    assert project(path)["version"] == pgcore.__version__
    assert project(path)["requires-python"] == ">=3.11"
    assert project(path)["license"] == "Apache-2.0"


@pytest.mark.parametrize("path", PROJECTS[1:], ids=relative)
def test_a_plugin_works_with_this_core_and_refuses_the_next_series(path: Path) -> None:
    (core,) = [each for each in map(Requirement, project(path)["dependencies"]) if each.name == "pgcore"]
    major, minor, _ = pgcore.__version__.split(".")
    assert core.specifier.contains(pgcore.__version__)
    assert not core.specifier.contains(f"{major}.{int(minor) + 1}.0")


def test_extras_of_the_core_pin_the_one_number() -> None:
    for extra, wanted in project(PROJECTS[0])["optional-dependencies"].items():
        for requirement in (each for each in map(Requirement, wanted) if each.name.startswith("pgcore-")):
            assert str(requirement.specifier) == f"=={pgcore.__version__}", f"extra {extra}: {requirement}"


def test_the_changelog_tells_of_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert any(pgcore.__version__ in heading for heading in headings)


@pytest.mark.parametrize("path", PROJECTS, ids=relative)
def test_every_entry_point_leads_to_a_file(path: Path) -> None:
    for name, target in project(path).get("entry-points", {}).get("pgcore", {}).items():
        module = path.parent.joinpath("src", *target.split("."))
        assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file(), f"{name} = {target}"
