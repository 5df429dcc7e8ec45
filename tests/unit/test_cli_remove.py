"""``remove``: three questions, each of which stops it, and what is gone then (cli 4.9)."""

from __future__ import annotations

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import Key
from unit.test_cli_commands import Cluster, cluster  # noqa: F401


def _keys(cluster: Cluster) -> set[str]:  # noqa: F811
    return set(cluster.stores["a"].read(fresh=True, deadline=Deadline.after(1)).records)


def test_everything_is_gone_after_three_right_answers(cluster: Cluster) -> None:  # noqa: F811
    result = cluster.run("remove", "demo", "-f", "tsv", input="demo\nYes I am aware\na\n")
    assert (result.exit_code, _keys(cluster)) == (0, set()), result.output
    assert result.stdout.startswith("Cluster\tMember\t")
    assert result.stdout.endswith("Success: cluster demo is removed from the store\n")


def test_without_a_leader_nobody_asks_for_it(cluster: Cluster) -> None:  # noqa: F811
    cluster.stores["a"].release({}, deadline=Deadline.after(1))
    assert cluster.run("remove", "demo", input="demo\nYes I am aware\n").exit_code == 0
    assert _keys(cluster) == set()


@pytest.mark.parametrize(
    "answers", ["", "demo2\n", "demo\nyes i am aware\n", "demo\nYes I am aware\n", "demo\nYes I am aware\nb\n", "\n\n\n"]
)
def test_a_wrong_or_a_missing_answer_removes_nothing(cluster: Cluster, answers: str) -> None:  # noqa: F811
    before = _keys(cluster)
    result = cluster.run("remove", "demo", input=answers)
    assert (result.exit_code, _keys(cluster)) == (1, before)
    assert "nothing was removed" in result.stderr or result.stderr.endswith("Aborted!\n")


def test_a_cluster_of_groups_is_not_removed_as_a_whole(cluster: Cluster) -> None:  # noqa: F811
    cluster.file.write_text(cluster.file.read_text() + "citus: {group: 0, database: x}\n")
    result = cluster.run("remove", "demo", input="demo\nYes I am aware\na\n")
    assert (result.exit_code, "name the one to remove with --group" in result.stderr) == (1, True)
    assert Key.INITIALIZE in _keys(cluster)


def test_a_name_is_needed_and_nothing_skips_the_questions(cluster: Cluster) -> None:  # noqa: F811
    assert cluster.run("remove").exit_code == 2
    assert cluster.run("remove", "demo", "--force").exit_code == 2
