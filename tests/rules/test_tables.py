"""The tables as a whole: every rule has a case, the names and the page are as committed, a sentence tells what a rule means."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pgcore.decide import TABLES, explain
from pgcore.testing import rules_page
from rules.cases import Case

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "rules.md"
RULES = [name for table in TABLES for name, _ in table.listing()]


def cases() -> list[Case]:
    """Every case of every table of cases."""
    modules = (importlib.import_module(f"rules.{path.stem}") for path in sorted(HERE.glob("test_*.py")) if path != Path(__file__))
    return [case for module in modules for case in getattr(module, "CASES", ())]


ANSWERED = {case.rule for case in cases()}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_the_answer_of_a_case(rule: str) -> None:
    assert rule in ANSWERED


def test_every_case_names_a_rule() -> None:
    assert ANSWERED - {""} <= set(RULES)


def test_no_two_cases_of_one_rule_tell_the_same_situation() -> None:
    told = [(case.stage, case.rule, case.situation) for case in cases()]
    assert len(told) == len(set(told))


def test_the_names_of_all_rules_are_as_committed() -> None:
    """Names appear in logs and metrics. If this change is meant: write ``rules_page.names()`` to tests/rules/tables.txt."""
    assert (HERE / "tables.txt").read_text() == rules_page.names()


def test_the_page_of_the_rules_is_current() -> None:
    """If not: ``python -m pgcore.testing.rules_page docs/rules.md``."""
    assert PAGE.read_text() == rules_page.page()


@pytest.mark.parametrize(("name", "docstring"), [row for table in TABLES for row in table.listing()])
def test_a_rule_says_in_a_sentence_what_it_means(name: str, docstring: str) -> None:
    sentence, _ = explain.split(docstring)
    assert re.match(r"([A-Z`]|pg_).*[.)]$", sentence), name


def test_the_names_of_rules_are_unique() -> None:
    assert len(RULES) == len(set(RULES))
