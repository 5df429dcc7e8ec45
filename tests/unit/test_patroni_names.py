"""Lines of units and scripts written for Patroni, run through the links that docs/migrating-from-patroni.md makes (cli 6, 9)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PGCORE = Path(sys.executable).with_name("pgcore")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI", "XDG"))}


def links() -> list[str]:
    """The commands that make the links, as the page prints them."""
    page = (ROOT / "docs" / "migrating-from-patroni.md").read_text()
    return re.findall(r'^for name in [a-z_ ]+; do\n.*\ndone$', page, re.MULTILINE)


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A directory with the links that the page's commands make."""
    folder = tmp_path / "bin"
    folder.mkdir()
    assert len(links()) == 1
    path = f"{PGCORE.parent}:{os.environ['PATH']}"
    subprocess.run(links()[0].replace("/usr/local/bin", str(folder)), shell=True, check=True, env=CLEAN | {"PATH": path})
    return folder


def line(bin_dir: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a unit or script: its program found among the links, variables expanded as systemd does."""
    words = [re.sub(r"\$\{?(\w+)\}?", lambda match: environment[match[1]], word) for word in shlex.split(text)]
    return subprocess.run([bin_dir / os.path.basename(words[0]), *words[1:]], env=CLEAN | environment, capture_output=True,
                          text=True, timeout=60, cwd=bin_dir.parent)


@pytest.mark.parametrize(("start", "environment"), [
    ("/usr/bin/patroni ${CONFIG}", {"CONFIG": "node.yml"}),
    ("/opt/app/patroni/bin/patroni conf.d", {}),
    ("/usr/local/bin/patroni", {"PATRONI_CONFIGURATION": "{scope: batman}"})])
def test_the_line_of_a_unit_starts_the_agent_with_its_configuration(
        bin_dir: Path, start: str, environment: dict[str, str]) -> None:
    """It gets as far as reading it: what it misses there it tells, with the place."""
    (bin_dir.parent / "conf.d").mkdir()
    for name in ("node.yml", "conf.d/10-node.yml"):
        (bin_dir.parent / name).write_text("scope: batman\n")
    done = line(bin_dir, start, **environment)
    assert done.returncode == 1 and "postgresql.data_dir: is required but missing" in done.stderr, done.stderr
    assert "scope" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "code", "told"), [
    ("/usr/bin/patronictl -c node.yml list", 1, "the configuration has no section for a store"),
    ("/usr/bin/patroni_raft_controller node.yml", 1, "node.yml"),
    ("/usr/bin/patroni_aws on_start", 1, "patroni_aws")])
def test_the_other_programs_answer_to_their_names(bin_dir: Path, text: str, code: int, told: str) -> None:
    (bin_dir.parent / "node.yml").write_text("scope: batman\n")
    done = line(bin_dir, text)
    assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done


def test_patronictl_finds_its_file_by_variable_and_by_place(bin_dir: Path) -> None:
    home = bin_dir.parent / ".config" / "patroni"
    home.mkdir(parents=True)
    (home / "patronictl.yaml").write_text("scope: [by-place]\n")
    (bin_dir.parent / "other.yml").write_text("scope: [by-variable]\n")
    found = {"HOME": str(bin_dir.parent)}
    assert "patronictl.yaml" in line(bin_dir, "patronictl list", **found).stderr
    assert "other.yml" in line(bin_dir, "patronictl list", **found, PATRONICTL_CONFIG_FILE="other.yml").stderr
