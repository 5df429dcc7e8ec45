"""Every edge case has a test that names it, every HA rule has code that cites it and a test of that code."""

from __future__ import annotations

from house.sources import ROOT, script


def test_every_edge_case_of_rules_and_shell_is_named_by_a_test() -> None:
    """``python scripts/edge_cases.py`` prints the missing ones."""
    assert script("edge_cases").missing() == []


def test_every_edge_case_of_the_rules_is_a_scenario_of_the_simulator() -> None:
    cases = script("edge_cases")
    texts = [text for path in sorted((ROOT / "tests/sim").glob("test_*.py")) for _, text in cases._sentences(path)]
    played = set().union(*map(cases.named_in, texts))
    assert sorted(cases.numbers(cases.DECIDED) - played) == []


def test_every_ha_rule_is_cited_by_code_that_has_a_test() -> None:
    """``python scripts/ha_rules.py --missing`` prints the missing ones."""
    assert script("ha_rules").missing() == []


def test_the_page_from_rules_to_code_and_tests_is_current() -> None:
    """If not: ``python scripts/ha_rules.py docs/ha-rules.md``."""
    assert (ROOT / "docs" / "ha-rules.md").read_text() == script("ha_rules").page()
