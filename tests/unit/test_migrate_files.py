"""`pgcore migrate check` on a collection of files as they are in the field; what it says of each is kept beside it.

After a change that is meant: ``PGCORE_WRITE_EXPECTED=1 pytest tests/unit/test_migrate_files.py``, and read the difference.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pgcore.cli.context import Session
from pgcore.cli.main import group
from pgcore.cli.migrate_survey import read_environment_file, survey
from pgcore.migrate.check import check, must_change
from pgcore.migrate.differences import DIFFERENCES
from pgcore.migrate.subject import Finding, Kind

FILES = Path(__file__).with_name("patroni_files")
CASES = sorted(path for path in FILES.iterdir() if path.suffix != ".expected")
MUST_CHANGE = {"kubernetes-spilo", "mistakes", "old-keys", "raft", "tls", "watchdog-failsafe"}
PROGRAMS = ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind")
BELOW = re.compile(r"(?<=[ '\"=\[])/(?=(etc|usr|var|data|pgdata|dev|run)/)")
FIXED = frozenset({"basebackup", "initdb"})
"""Methods the expectations count on: those that other plugins bring may come and go."""


def on_this_machine(case: Path, root: Path) -> tuple[Path | None, dict[str, str]]:
    """The case with its directories below ``root``, where programs, data and certificates are; and its environment."""
    target = root / case.name
    texts = {path: BELOW.sub(f"{root}/", path.read_text()) for path in (sorted(case.iterdir()) if case.is_dir() else [case])}
    for path, text in texts.items():
        place = target / path.name if case.is_dir() else target
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
        place.chmod(0o600)
        for name in re.findall(rf"{root}/[^\s,'\"\]}}]+", text):
            _make(Path(name))
    if case.suffix == ".env":
        return None, read_environment_file(str(target))
    return target, {}


def _make(path: Path) -> None:
    """What a node has at such a path."""
    if path.parts[-1] == "bin":
        path.mkdir(parents=True, exist_ok=True)
        version = re.search(r"\d+", path.parts[-2]) or re.search(r"\d+", path.parts[-3])
        for program in PROGRAMS:
            (path / program).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version[0] if version else 15}.4'\n")
            (path / program).chmod(0o755)
    elif path.suffix in (".crt", ".key") and "missing" not in path.name:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    elif path.parent.name in ("data", "pgroot", "15", "16", "17", "14", "13", "11", "pg") or path.parent.name == "log":
        (path / "pg_wal").mkdir(parents=True, exist_ok=True)
        (path / "PG_VERSION").write_text("15\n")


def said(findings: list[Finding], root: Path) -> str:
    """The findings as lines, without what differs from machine to machine."""
    lines = []
    for finding in findings:
        remedy = f" ({finding.remedy})" if finding.remedy else ""
        see = f" [{finding.see}]" if finding.see else ""
        lines.append(f"{finding.kind.value} | {finding.place} | {finding.path} | {finding.text}{remedy}{see}")
    return "".join(line.replace(f"{root}/", "/") + "\n" for line in lines)


def findings_of(path: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    session = Session(str(path) if path else None, None, False, environ)
    return check(replace(survey(session, offline=True).subject, methods=FIXED))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_each_file_is_judged_as_expected(case: Path, tmp_path: Path) -> None:
    path, environ = on_this_machine(case, tmp_path)
    findings = findings_of(path, environ)
    text, expected = said(findings, tmp_path), case.with_name(f"{case.stem}.expected")
    if os.environ.get("PGCORE_WRITE_EXPECTED"):
        expected.write_text(text)
    assert text == expected.read_text()
    assert must_change(findings) == (case.stem in MUST_CHANGE)


def test_no_secret_is_told() -> None:
    for path in FILES.glob("*.expected"):
        assert "not-a-secret" not in path.read_text(), path
    assert len(list(FILES.glob("*.expected"))) == len(CASES) >= 15


def test_a_finding_of_a_file_names_its_line() -> None:
    """What is ignored and what carries over has a line; a section that was moved has that of its old place beside it."""
    for path in FILES.glob("*.expected"):
        for line in path.read_text().splitlines():
            kind, place, key, _ = line.split(" | ", 3)
            told = place.endswith((".yml", ".yaml")) and kind in (Kind.IGNORED, Kind.CARRIES)
            assert not told or key == "exhibitor", f"{path.name}: {line}"


def test_every_page_that_is_named_exists() -> None:
    named = {page for path in FILES.glob("*.expected") for page in re.findall(r" \[(\S+\.md)\]$", path.read_text(), re.MULTILINE)}
    docs = FILES.parents[2] / "docs"
    assert len(named) > 8 and [page for page in named | {row.see for row in DIFFERENCES} if not (docs / page).exists()] == []


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(group, ["migrate", *arguments], obj=Session(None, None, False, environ))


def test_people_get_tables_and_programs_objects(tmp_path: Path) -> None:
    path, _ = on_this_machine(FILES / "watchdog-failsafe.yml", tmp_path)
    done = call("check", str(path), "--offline")
    assert done.exit_code == 1 and done.output.rstrip().endswith("2 findings must be dealt with first")
    heads = [kind.value.capitalize() for kind in Kind if kind is not Kind.LOOK]
    assert sorted(heads, key=done.output.index) == heads and f"{path}:15" in done.output
    read = yaml.safe_load(call("check", str(path), "--offline", "-f", "yaml").output)
    assert read["facts"]["store"] == "etcd3" and read["findings"][0]["kind"] == "must change first"


def test_the_units_variables_are_laid_over_the_file(tmp_path: Path) -> None:
    path, _ = on_this_machine(FILES / "exhibitor.yml", tmp_path)
    variables = tmp_path / "patroni.env"
    variables.write_text("# of the unit\nPATRONI_NAME='from unit'\nexport PATRONI_NONSENSE=1\n")
    done = call("check", str(path), "--offline", "-f", "json", "--environment-file", str(variables), PATRONI_SCOPE="own")
    seen = json.loads(done.output)
    assert (done.exit_code, seen["facts"]["node"], seen["facts"]["cluster"]) == (0, "from unit", "/service/own")
    assert [row["place"] for row in seen["findings"] if row["text"] == "sets no key"] == ["PATRONI_NONSENSE"]
    variables.write_text("PATRONI_NAME='open\n")
    broken = call("check", str(path), "--offline", "--environment-file", str(variables))
    assert broken.exit_code == 2 and "cannot be read as lines NAME=VALUE" in broken.output


def test_a_file_for_everybody_to_read_and_a_directory_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    path, _ = on_this_machine(FILES / "exhibitor.yml", tmp_path)
    assert path is not None
    path.chmod(0o644)
    path.write_text(path.read_text() + f"recorder: {{dir: {tmp_path}/no/where}}\n")
    told = {finding.text for finding in findings_of(path, {})}
    assert "holds passwords and is readable by everybody on this machine" in told
    assert f"{tmp_path}/no/where cannot be made by this account" in told


def test_there_is_no_plan_for_a_cluster_that_can_only_be_moved_as_a_whole(tmp_path: Path) -> None:
    path, _ = on_this_machine(FILES / "raft.yml", tmp_path)
    done = call("plan", str(path))
    assert (done.exit_code, "cannot be moved node by node" in done.output) == (1, True), done.output


@pytest.mark.parametrize(("case", "options", "told"), [
    ("kubernetes-spilo", "", "--image is missing: the members of {file} are pods, name the image with pgcore"),
    ("kubernetes-spilo", "--image '' ", "--image is missing"),
    ("kubernetes-spilo", "--image 'two words'", "--image: 'two words' cannot be an image (write it as the pods name it"),
    ("kubernetes-spilo", "--image a --image-before b", "--image-before b is for the way back: add --back, or leave it out"),
    ("kubernetes-spilo", "--back --container A/b", "--container: 'A/b' cannot be the name of a container"),
    ("kubernetes-spilo", "--image a --pgcore-unit b", "--pgcore-unit is for machines: the members of {file} are pods"),
    ("watchdog-failsafe", "--image a", "--image is for pods: {file} has no section kubernetes; name the file of a pod, or leave"),
    ("watchdog-failsafe", "--stateful-set a", "--stateful-set is for pods: {file} has no section kubernetes")])
def test_options_that_do_not_fit_the_file_are_refused_in_one_line(
        tmp_path: Path, case: str, options: str, told: str) -> None:
    path, _ = on_this_machine(FILES / f"{case}.yml", tmp_path)
    done = call("plan", *shlex.split(options), str(path))
    assert done.exit_code and told.format(file=path) in done.output.splitlines()[-1], done.output


def test_there_is_no_plan_for_a_cluster_in_leases(tmp_path: Path) -> None:
    path, _ = on_this_machine(FILES / "kubernetes-spilo.yml", tmp_path)
    assert path is not None
    path.write_text(path.read_text().replace("use_endpoints: true", "use_leases: true"))
    done = call("plan", "--image", "a", str(path))
    assert done.exit_code == 1 and done.output.splitlines()[-1] == (
        f"Error: {path}: kubernetes.use_leases: is true: Patroni knows no Leases, so no member of this cluster runs it "
        "(name the file of a cluster in Endpoints or ConfigMaps)")


def test_a_plan_needs_a_file_and_two_units() -> None:
    assert call("plan").exit_code == 2
    same = call("plan", "node.yml", "--patroni-unit", "pg", "--pgcore-unit", "pg")
    assert (same.exit_code, "a plan needs two" in same.output) == (2, True)
