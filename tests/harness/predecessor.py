"""Installs the predecessor, and other programs, into virtual environments outside the tree, readable by the user postgres.

The one place that does: benchmarks compare with its agent, tests ask its ``bin/patronictl``. Installed once per machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PATRONI_VERSION = "4.1.5"


def default_cache() -> Path:
    """``PGCORE_CACHE``, else a directory below the one for temporary files: not a home, which postgres may not enter."""
    return Path(os.environ.get("PGCORE_CACHE") or Path(tempfile.gettempdir()) / "pgcore-cache")


def _readable_python() -> str:
    """An interpreter that postgres can run: this one, or the system's.

    The probe goes through a shell because setpriv itself still has root's rights to reach the first program, and only that one.
    """
    for candidate in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if candidate is None:
            continue
        probe = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--",
                 "/bin/sh", "-c", 'exec "$0" -c ""', os.path.realpath(candidate)]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return os.path.realpath(candidate)
    raise SystemExit("the user postgres can run no Python interpreter found here: install the packages python3 and python3-venv")


def install(cache: Path | None = None, version: str = PATRONI_VERSION) -> Path:
    """The virtual environment with Patroni and its stores. Raises ``subprocess.CalledProcessError`` when pip fails."""
    return environment(f"patroni-{version}-stores", "patroni",
                       f"patroni[etcd,etcd3,consul,zookeeper,raft,psycopg2-binary]=={version}", cache=cache)


def environment(name: str, program: str, *requirements: str, cache: Path | None = None) -> Path:
    """A virtual environment that has ``program``, made if missing. Any number of processes may ask at once: one makes it.

    Raises ``subprocess.CalledProcessError`` when pip fails.
    """
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / name / "bin" / program).exists():
            print(f"installing {' '.join(requirements)} into {cache / name}", file=sys.stderr)
            _make(cache / name, *requirements)
    return cache / name


def _make(environment: Path, *requirements: str) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([_readable_python(), "-m", "venv", str(environment)], check=True)
    try:
        subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
        subprocess.run(["chmod", "-R", "a+rX", str(environment)], check=True)
    except subprocess.CalledProcessError:
        # A half-made environment would be taken for a complete one the next time.
        shutil.rmtree(environment, ignore_errors=True)
        raise
