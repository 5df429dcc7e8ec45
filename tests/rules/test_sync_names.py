"""``synchronous_standby_names``: what is read, what is written, and that names need not be plain. (HA rules 19.8, EC 127)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcore.decide.sync_names import PLACEHOLDER, QUORUM_PLACEHOLDER, any_of, first_of, parse
from pgcore.model.synchronous import OFF, PLACEHOLDER_NAME, Kind, Names, render

FIRST, ANY = Kind.FIRST, Kind.ANY

RENDERED = (
    (OFF, ""),
    (first_of(["b"]), "b"),
    (first_of(["c", "b"]), "2 (b,c)"),
    (any_of(1, ["b"]), "ANY 1 (b)"),
    (any_of(2, ["d", "b", "c"]), "ANY 2 (b,c,d)"),
    (first_of(["node-1"]), '"node-1"'),
    (first_of(["first"]), '"first"'),
    (first_of(["Any", "first_2"]), '2 ("Any",first_2)'),
    (any_of(1, ['say "b"', "x$1", "1"]), 'ANY 1 ("1","say ""b""",x$1)'),
    (PLACEHOLDER, PLACEHOLDER_NAME),
    (QUORUM_PLACEHOLDER, f"ANY 1 ({PLACEHOLDER_NAME})"),
    (any_of(1, []), ""),
)

PARSED = (
    ("", OFF),
    (None, OFF),
    ("  ", OFF),
    ("b", Names(FIRST, 1, ("b",))),
    ("b, c", Names(FIRST, 1, ("b", "c"))),
    ("2 (c, b)", Names(FIRST, 2, ("b", "c"))),
    ("2(b,c)", Names(FIRST, 2, ("b", "c"))),
    ("First 1 (b, c)", Names(FIRST, 1, ("b", "c"))),
    ("any 2 (b,c,d)", Names(ANY, 2, ("b", "c", "d"))),
    ('"Node ""A"", 1"', Names(FIRST, 1, ('Node "A", 1',))),
    ('ANY 1 ("any", "FIRST")', Names(ANY, 1, ("any", "FIRST"))),
    ("1", Names(FIRST, 1, ("1",))),
    ("b, B", Names(FIRST, 1, ("B",))),
    ("knöten", Names(FIRST, 1, ("knöten",))),
    ("*", Names(FIRST, 1, everybody=True)),
    ('"*"', Names(FIRST, 1, everybody=True)),
    ("ANY 2 (b, *)", Names(ANY, 2, everybody=True)),
    (PLACEHOLDER_NAME, PLACEHOLDER),
    (f"ANY 1 ({PLACEHOLDER_NAME})", QUORUM_PLACEHOLDER),
    # What PostgreSQL refuses.
    ("b,", OFF),
    ("2 (b", OFF),
    ("2 ()", OFF),
    ("0 (b)", OFF),
    ("ANY (b)", OFF),
    ("any, b", OFF),
    ("b c", OFF),
    ("2 (b,,c)", OFF),
    ('"b', OFF),
    ('""', OFF),
    ("b-1", OFF),
    ("2 (b) c", OFF),
    ("(b)", OFF),
)


@pytest.mark.parametrize(("names", "text"), RENDERED)
def test_names_are_sorted_and_quoted_where_postgresql_needs_it(names: Names, text: str) -> None:
    assert render(names) == text
    assert parse(text) == names


@pytest.mark.parametrize(("text", "names"), PARSED)
def test_every_form_is_understood_and_what_postgresql_refuses_is_off(text: str | None, names: Names) -> None:
    assert parse(text) == names


def test_names_that_differ_in_case_only_are_the_same_to_postgresql() -> None:
    assert parse('"Node1",b').same(parse('"B","node1"'))
    assert not parse("b").same(parse("ANY 1 (b)"))
    assert not parse("2 (b,c)").same(parse("1 (b,c)"))
    assert not PLACEHOLDER.same(OFF)


ODD = st.sampled_from(["first", "ANY", "Any", 'q"q', "a b", "Ä", "1", "$x", "a,b", "(", "_x$9", "node-1", "x.y"])
NAMES = st.lists(ODD | st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=9), max_size=5).map(
    lambda names: [n for n in names if n not in ("*", PLACEHOLDER_NAME)]
)


@given(NAMES, st.booleans(), st.integers(1, 9))
def test_whatever_is_rendered_is_parsed_to_the_same(listed: list[str], quorum: bool, count: int) -> None:
    names = any_of(count, listed) if quorum else first_of(listed)
    assert parse(render(names)) == names


@given(st.text('ab*"(), 12$any', max_size=20))
def test_no_text_makes_the_parser_fail_and_what_it_understands_is_stable(text: str) -> None:
    names = parse(text)
    assert parse(render(names)) == names
