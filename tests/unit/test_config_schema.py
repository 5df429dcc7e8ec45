"""Sections as dataclasses: spellings of values, messages, secrets in files, JSON Schema (config 18)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgcore.config.schema import json_schema, option, parse_section
from pgcore.config.values import parse_bool, parse_int, parse_real, split_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    depth: int = option(1, minimum=0, doc="how deep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    host: str = option(doc="where")
    port: int = option(5432, minimum=1, maximum=65535, doc="which port")
    delay: float = option(1.0, unit="s", doc="how long")
    size: int = option(0, unit="bytes", doc="how big")
    on: bool = option(False, doc="whether")
    hosts: tuple[str, ...] = option((), doc="all of them")
    lines: tuple[str, ...] = option((), unit="lines", doc="text")
    ports: tuple[int, ...] = option((), doc="numbers")
    mode: str = option("off", choices=("off", "on", "Quorum"), doc="mode")
    labels: Mapping[str, str] = option(factory=dict, doc="labels")
    password: str | None = option(None, secret=True, doc="secret")
    timeout: int = option(3, alias=("old_timeout",), doc="with an alias")
    inner: Inner = option(factory=Inner, doc="nested")


def read(**keys: Any) -> Sample:
    section, errors, _ = parse_section(Sample, {"host": "a", **keys}, "sample", "node.yml")
    assert not errors, errors
    return section


def mistakes(**keys: Any) -> list[str]:
    section, errors, _ = parse_section(Sample, {"host": "a", **keys}, "sample", "node.yml")
    assert section is None
    return [str(error) for error in errors]


@pytest.mark.parametrize(("text", "value"), [
    ("on", True), ("TRUE", True), ("yes", True), ("1", True), (1, True), ("off", False), ("No", False), (0, False),
    ("maybe", None)])
def test_booleans_have_eight_spellings(text: Any, value: bool | None) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize(("text", "unit", "value"), [
    ("0x10", "", 16), ("010", "", 8), ("1.6", "", 2), ("1e3", "", 1000), ("-1", "", -1), ("08", "", None), ("1MB", "", None),
    ("30min", "s", 1800), ("1 h", "s", 3600), ("500ms", "s", 0), ("1s", "ms", 1000), ("16MB", "bytes", 16 << 20),
    ("2GB", "MB", 2048), ("1m", "s", None), ("1mb", "bytes", None), ("", "s", None), (True, "", None), ("1e400", "", None)])
def test_integers_are_read_as_postgresql_reads_them(text: Any, unit: str, value: int | None) -> None:
    assert parse_int(text, unit) == value


def test_real_numbers_keep_their_fraction() -> None:
    assert parse_real("500ms", "s") == 0.5


@pytest.mark.parametrize(("text", "default", "pair"), [
    ("a:1", None, ("a", 1)), ("[::1]:5", None, ("::1", 5)), ("a", 7, ("a", 7)), ("[::1]", 7, ("::1", 7)), ("*:1", None, ("*", 1)),
    (":8008", None, ("", 8008)), ("a,[::1]:5432", None, ("a,::1", 5432))])
def test_addresses_are_split_at_the_last_colon(text: str, default: int | None, pair: tuple[str, int]) -> None:
    assert split_address(text, default) == pair


@pytest.mark.parametrize("text", ["a", "a:", "a:b", "a:0", "a:70000"])
def test_an_address_without_a_port_in_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wants host:port"):
        split_address(text)


def test_accepted_spellings_become_the_wanted_type() -> None:
    section = read(port="0x10", delay="500ms", size="1kB", on="yes", hosts="a:1, b:2", lines="x, y\nz", ports=["1", 2],
                   labels={"tier": 1}, inner={"depth": "3"})
    assert (section.port, section.delay, section.size, section.on) == (16, 0.5, 1024, True)
    assert (section.hosts, section.lines, section.ports) == (("a:1", "b:2"), ("x, y", "z"), (1, 2))
    assert (section.labels, section.inner.depth) == ({"tier": "1"}, 3)


@pytest.mark.parametrize(("given", "mode"), [(True, "on"), (False, "off"), ("QUORUM", "Quorum"), ("Off", "off")])
def test_choices_ignore_case_and_understand_bare_on_and_off(given: Any, mode: str) -> None:
    assert read(mode=given).mode == mode


def test_empty_values_are_the_default() -> None:
    assert read(port=None, inner=None).port == 5432


def test_all_mistakes_are_reported_with_path_value_and_wish() -> None:
    found = mistakes(port=70000, on="maybe", mode="sometimes", hosts=5, labels=[1], inner={"depth": -1}, delay="1 m")
    assert found == [
        "node.yml: sample.port: wants an integer from 1 to 65535, has 70000",
        "node.yml: sample.delay: wants a number in seconds or with a unit (30s, 5min), has '1 m'",
        "node.yml: sample.on: wants true or false, has 'maybe'",
        "node.yml: sample.hosts: wants a list, has 5",
        "node.yml: sample.mode: wants one of off, on, Quorum, has 'sometimes'",
        "node.yml: sample.labels: wants a mapping, has a list",
        "node.yml: sample.inner.depth: wants an integer of at least 0, has -1",
    ]


def test_a_wrong_item_of_a_list_is_pointed_at() -> None:
    assert "item [1]" in mistakes(ports=[1, "x"])[0]


def test_a_missing_required_key_says_what_it_is() -> None:
    _, errors, _ = parse_section(Sample, {}, "sample", lambda path: f"at {path}")
    assert [str(error) for error in errors] == ["at sample.host: sample.host: is required but missing (where)"]


def test_something_that_is_no_mapping_is_refused() -> None:
    _, errors, _ = parse_section(Sample, [1], "sample", "node.yml")
    assert "wants a mapping of keys, has a list" in str(errors[0])


def test_an_unknown_key_names_its_nearest_neighbour() -> None:
    _, errors, warnings = parse_section(Sample, {"host": "a", "pasword": "x", "zzz": 1}, "sample", "node.yml")
    assert not errors
    assert "sample.pasword: is not a known key" in str(warnings[0]) and "did you mean password?" in str(warnings[0])
    assert "remove it" in str(warnings[1]) and "x" not in warnings[0].problem.split()
    _, errors, _ = parse_section(Sample, {"host": "a", "zzz": 1}, "sample", "node.yml", unknown="error")
    assert len(errors) == 1


def test_an_alias_counts_unless_the_present_name_is_there() -> None:
    assert read(old_timeout=9).timeout == 9
    section, _, warnings = parse_section(Sample, {"host": "a", "timeout": 4, "old_timeout": 9}, "sample", "node.yml")
    assert section.timeout == 4 and "is ignored because timeout is set too" in str(warnings[0])


def test_a_password_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pa ss\n")
    assert read(password_file=str(tmp_path / "secret")).password == "pa ss"


def test_an_unreadable_password_file_is_named(tmp_path: Path) -> None:
    found, = mistakes(password_file=str(tmp_path / "absent"))
    assert "sample.password_file" in found and "absent" in found and "No such file" in found


def test_a_password_and_a_password_file_contradict(tmp_path: Path) -> None:
    assert "is set together with password_file" in mistakes(password="x", password_file="y")[0]


def test_secrets_show_nowhere() -> None:
    assert "hush" not in repr(read(password="hush"))
    assert "hush" not in mistakes(password=["hush"])[0]
    _, _, warnings = parse_section(Sample, {"host": "a", "password": 4711}, "sample", "node.yml")
    assert "4711" not in str(warnings[0]) and "quotes" in str(warnings[0])


def test_the_json_schema_knows_ranges_choices_and_required_keys() -> None:
    schema = json_schema(Sample)
    assert schema["required"] == ["host"]
    assert schema["properties"]["port"]["maximum"] == 65535
    assert schema["properties"]["mode"]["anyOf"] == [{"enum": ["off", "on", "Quorum"]}, {"type": "boolean"}]
    assert schema["properties"]["inner"]["properties"]["depth"]["type"] == "integer"
    assert {"type": "string"} in schema["properties"]["delay"]["anyOf"]
