"""What the house rules are checked against: the files of this workspace and their imports."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "src"


@cache
def files() -> tuple[Path, ...]:
    """Every file git knows or would add; in an exported tree, every file outside hidden folders."""
    listing = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, check=False)
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part in (".venv", ".cache") for part in path.parts)]
    return tuple(sorted(path for path in paths if path.is_file()))


def python_files(*below: str) -> list[Path]:
    """Python files below these folders of the workspace (all of it if none is given)."""
    folders = [ROOT / name for name in below] or [ROOT]
    return [path for path in files() if path.suffix == ".py" and any(path.is_relative_to(folder) for folder in folders)]


def relative(path: Path) -> str:
    """A path as it is written in a failure."""
    return path.relative_to(ROOT).as_posix()


def script(name: str) -> ModuleType:
    """A script of this workspace as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, wherever in the file it is imported."""

    path: Path
    line: int
    module: str

    @property
    def top(self) -> str:
        """The distribution-level name: ``pgcore``, ``os``, ``click``."""
        return self.module.partition(".")[0]

    def within(self, *names: str) -> bool:
        """Whether the module is one of these or lies below one."""
        return any(self.module == name or self.module.startswith(f"{name}.") for name in names)

    def __str__(self) -> str:
        return f"{relative(self.path)}:{self.line} imports {self.module}"


def imports(path: Path) -> list[Import]:
    """Every import of a file. ``from pgcore import daemon`` counts as ``pgcore.daemon``, an attribute as its package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(path, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = path.relative_to(CORE).with_suffix("").parts if path.is_relative_to(CORE) else ()
                module = ".".join((*parts[:len(parts) - node.level], *filter(None, [module])))
            found += [Import(path, node.lineno, _submodule(module, alias.name)) for alias in node.names]
    return list(dict.fromkeys(found))


def _submodule(module: str, name: str) -> str:
    folder = CORE.joinpath(*module.split("."))
    is_module = (folder / name).is_dir() or (folder / f"{name}.py").is_file()
    return f"{module}.{name}" if is_module else module
