"""Where the flight recorder writes: the ``recorder`` section, its defaults, its mistakes, its changes while the agent runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgcore.config.load import load_local
from pgcore.config.sections import configuration_schema
from pgcore.daemon.run import record_place
from pgcore.errors import ConfigErrors
from unit.test_config_validate import check, listener, node, only  # noqa: F401
from unit.test_daemon_kit import local, write_node_file


def path_of(folder: Path, changes: dict[str, Any]) -> str:
    place = record_place(local(folder, changes))
    assert place is not None
    return place.path


def test_by_default_it_lies_beside_the_data_directory_and_is_bounded(tmp_path: Path) -> None:
    place = record_place(local(tmp_path))
    assert place is not None
    assert place.path == str(tmp_path / "data.flight" / f"flight-{place.scope}-{place.node}.jsonl")
    assert (place.size, place.count) == (5_000_000, 4)


def test_a_log_directory_takes_it_unless_that_is_in_the_data_directory(tmp_path: Path) -> None:
    assert Path(path_of(tmp_path, {"log": {"dir": "/var/log/pgcore"}})).parent == Path("/var/log/pgcore")
    assert Path(path_of(tmp_path, {"log": {"dir": str(tmp_path / "data" / "log")}})).parent == tmp_path / "data.flight"


def test_a_section_says_where_how_much_and_whether(tmp_path: Path) -> None:
    section = {"dir": "/srv/flight", "file_size": "1MB", "file_num": 0}
    place = record_place(local(tmp_path, {"recorder": section, "log": {"dir": "/var/log/pgcore"}}))
    assert place is not None and Path(place.path).parent == Path("/srv/flight") and (place.size, place.count) == (1 << 20, 0)
    assert record_place(local(tmp_path, {"recorder": {"enabled": False}})) is None


def test_variables_say_the_same(tmp_path: Path) -> None:
    environ = {"PGCORE_RECORDER_DIR": "/srv/flight", "PGCORE_RECORDER_FILE_SIZE": "200000", "PGCORE_RECORDER_FILE_NUM": "2"}
    place = record_place(load_local(str(write_node_file(tmp_path)), environ, {}))
    assert place is not None and Path(place.path).parent == Path("/srv/flight") and (place.size, place.count) == (200_000, 2)
    assert record_place(load_local(str(write_node_file(tmp_path)), {"PGCORE_RECORDER_ENABLED": "off"}, {})) is None
    assert not environ


def test_the_data_directory_is_refused_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for inside in ("data", "data/flight", "link/flight"):
        with pytest.raises(ConfigErrors, match=r"recorder\.dir: lies in the data directory"):
            local(tmp_path, {"recorder": {"dir": str(tmp_path / inside)}})
    local(tmp_path, {"recorder": {"dir": str(tmp_path / "data2")}})


@pytest.mark.parametrize(("section", "message"), [
    ({"file_size": 5}, "at least 100000"), ({"file_num": -1}, "from 0 to 1000"), ({"enabled": "maybe"}, "true or false"),
    ({"dir": "/no/where/at/all"}, "there is no directory /no/where/at"),
])
def test_validate_knows_the_section(tmp_path: Path, node: dict[str, Any], section: dict[str, Any], message: str) -> None:  # noqa: F811
    assert message in only(check(tmp_path, node, {"recorder": section})).problem


def test_validate_accepts_a_good_section_and_names_a_misspelling(tmp_path: Path, node: dict[str, Any]) -> None:  # noqa: F811
    assert check(tmp_path, node, {"recorder": {"dir": str(tmp_path / "flight"), "file_size": "8MB"}}) == []
    assert "did you mean file_num" in only(check(tmp_path, node, {"recorder": {"file_nun": 3}})).remedy


def test_the_schema_describes_the_section() -> None:
    assert set(configuration_schema({})["properties"]["recorder"]["properties"]) == {"enabled", "dir", "file_size", "file_num"}
