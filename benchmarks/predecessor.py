"""Installs the predecessor into a virtual environment of its own, outside the tree, readable by the user postgres."""

from __future__ import annotations

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


def install(cache: Path, version: str = PATRONI_VERSION) -> Path:
    """The virtual environment with Patroni, made if missing."""
    environment = cache / f"patroni-{version}"
    if (environment / "bin" / "patroni").exists():
        return environment
    print(f"installing Patroni {version} into {environment}", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    subprocess.run([_readable_python(), "-m", "venv", str(environment)], check=True)
    requirement = f"patroni[etcd3,raft,psycopg2-binary]=={version}"
    try:
        subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", requirement], check=True, stdout=sys.stderr)
        subprocess.run(["chmod", "-R", "a+rX", str(environment)], check=True)
    except subprocess.CalledProcessError:
        # A half-made environment would be taken for a complete one the next time.
        shutil.rmtree(environment, ignore_errors=True)
        raise
    return environment
