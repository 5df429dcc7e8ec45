"""The page that agent and guard share: who may own it, what a torn write leaves, which pages are too old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcore import clock
from pgcore.daemon.guard_page import (
    LAYOUT,
    PAGE_BYTES,
    Duty,
    GuardError,
    GuardPage,
    Margins,
    Report,
    Stage,
    live_duty,
    now_ns,
    page_path,
)

SECOND = 1_000_000_000


@pytest.fixture
def page(tmp_path: Path) -> GuardPage:
    return GuardPage.open(str(tmp_path / "page"))


def test_its_clock_is_the_clock_of_the_leases() -> None:
    assert abs(now_ns() / 1e9 - clock.now()) < 0.1


def test_a_link_in_place_of_the_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(mode=0o600)
    (tmp_path / "page").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GuardError, match="page cannot be opened"):
        GuardPage.open(str(tmp_path / "page"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_page_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page").touch(mode=0o600)
    os.chown(tmp_path / "page", 12345, 12345)
    with pytest.raises(GuardError, match="owner 12345"):
        GuardPage.open(str(tmp_path / "page"))


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o620), lambda path: os.link(path, f"{path}.second")])
def test_a_page_that_others_can_reach_is_refused(tmp_path: Path, spoil: object) -> None:
    (tmp_path / "page").touch(mode=0o600)
    spoil(tmp_path / "page")  # type: ignore[operator]
    with pytest.raises(GuardError, match="not ours"):
        GuardPage.open(str(tmp_path / "page"))


def test_both_sides_see_each_others_records(page: GuardPage) -> None:
    other = GuardPage.open(page.path)
    page.duty.write(Duty(agent_pid=7, armed=1, until_ns=5))
    other.report.write(Report(stage=Stage.FAST, pid=9))
    assert other.duty.read() == (1, Duty(agent_pid=7, armed=1, until_ns=5))
    assert page.report.read() == (1, Report(stage=Stage.FAST, pid=9))


def test_a_writer_killed_in_the_middle_leaves_the_record_before(page: GuardPage, tmp_path: Path) -> None:
    for until in range(1, 8):
        page.duty.write(Duty(armed=1, until_ns=until * SECOND))
        before = page.duty.read()
        torn = Duty(armed=1, until_ns=99 * SECOND)
        image = bytearray(Path(page.path).read_bytes())
        page.duty.write(torn)
        complete = Path(page.path).read_bytes()
        assert page.duty.read() == (until + 1, torn)
        changed = [index for index in range(PAGE_BYTES) if image[index] != complete[index]]
        image[: changed[len(changed) // 2]] = complete[: changed[len(changed) // 2]]
        with open(page.path, "r+b") as file:
            file.write(image)
        assert page.duty.read() == before


def test_a_page_from_before_the_last_boot_guards_nothing(page: GuardPage) -> None:
    page.claim("/data", 1, 2)
    page.duty.write(Duty(armed=1, until_ns=1))
    with open(page.path, "r+b") as file:
        file.seek(24)
        file.write(b"\0" * 16)
    assert page.header() is None
    page.claim("/data", 3, 4)
    assert live_duty(page) == (Duty(), False)


def test_a_new_guard_inherits_the_lease_that_a_dead_guard_watched(page: GuardPage) -> None:
    page.claim("/data", 1, 2)
    page.duty.write(Duty(armed=1, until_ns=1))
    page.claim("/data", 3, 4)
    header = page.header()
    assert header is not None and (header.layout, header.guard_pid, header.data_dir) == (LAYOUT, 3, "/data")
    assert live_duty(page) == (Duty(armed=1, until_ns=1), True)


def test_a_lease_the_guard_has_finished_with_is_out_of_force_until_another_is_proven(page: GuardPage) -> None:
    page.duty.write(Duty(armed=1, until_ns=5))
    page.report.write(Report(cleared_ns=5))
    assert not live_duty(page)[1]
    page.duty.write(Duty(armed=1, until_ns=5, server_pid=1))
    assert not live_duty(page)[1]
    page.duty.write(Duty(armed=1, until_ns=6))
    assert live_duty(page)[1]


def test_only_one_guard_gets_the_lock_and_a_mapping_does_not_hold_it(page: GuardPage) -> None:
    first, second = GuardPage.open(page.path), GuardPage.open(page.path)
    assert first.lock()
    assert not second.lock()
    first.close()
    assert second.lock()


def test_a_removed_page_is_superseded_only_once_another_guard_holds_the_new_one(page: GuardPage) -> None:
    assert page.lock()
    os.unlink(page.path)
    assert not page.superseded()
    newer = GuardPage.open(page.path)
    assert not page.superseded()
    assert newer.lock()
    assert page.superseded()


def test_the_path_is_one_per_real_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert page_path(str(tmp_path / "link")) == page_path(str(tmp_path / "data"))
    assert page_path(str(tmp_path / "other")) != page_path(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("ttl_s", "expected"), [(30, (9.0, 4.5, 1.5)), (5, (1.5, 0.75, 0.25)), (3, (0.9, 0.45, 0.25)), (1, (0.3, 0.25, 0.25))]
)
def test_margins_keep_their_order_and_the_floor(ttl_s: float, expected: tuple[float, ...]) -> None:
    assert [round(ns / SECOND, 6) for ns in Margins().before_end_ns(ttl_s)] == list(expected)


@pytest.mark.parametrize("margins", [Margins(fast=1.0), Margins(immediate=0.4), Margins(kill=0.0), Margins(kill_floor_s=-1)])
def test_margins_that_make_no_sense_are_refused(margins: Margins) -> None:
    with pytest.raises(ValueError, match="guard margins"):
        margins.checked()


def test_stages_come_due_one_after_the_other() -> None:
    fast, immediate, kill = Margins().before_end_ns(10)
    duty = Duty(armed=1, until_ns=100 * SECOND, fast_ns=fast, immediate_ns=immediate, kill_ns=kill)
    seen = [duty.stage_due(int(at * SECOND)) for at in (96.9, 97, 98.4, 98.5, 99.4, 99.5, 200)]
    assert seen == [
        Stage.NONE, Stage.FAST, Stage.FAST, Stage.IMMEDIATE, Stage.IMMEDIATE, Stage.KILL, Stage.KILL
    ]  # fmt: skip
    assert duty.next_stage_ns(96 * SECOND) == 1 * SECOND
    assert duty.next_stage_ns(99 * SECOND) == SECOND // 2
    assert duty.next_stage_ns(100 * SECOND) == 0
