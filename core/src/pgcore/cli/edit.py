"""``pgcore edit-config``: change the dynamic configuration in the store, unless somebody else did meanwhile (cli 4.2)."""

from __future__ import annotations

import difflib
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from pgcore.cli.context import READ_S, Cluster, Session
from pgcore.cli.options import force_option, group_option, name_argument
from pgcore.cli.render import yaml_text
from pgcore.clock import Deadline
from pgcore.config.document import patch, read_yaml
from pgcore.config.dynamic import Notes, read_document
from pgcore.dcs.codec import compact
from pgcore.dcs.store import Key, Refused, version
from pgcore.errors import ConfigError, PgcoreError, StoreUnavailableError
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView

Document = dict[str, Json]
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command("edit-config")
@name_argument
@group_option
@click.option("-q", "--quiet", is_flag=True, help="Do not show what changes.")
@click.option("-s", "--set", "settings", multiple=True, metavar="PATH=VALUE",
              help="Set a value, as in maximum_lag_on_failover=0; null removes it. May be repeated.")
@click.option("-p", "--pg", "parameters", multiple=True, metavar="NAME=VALUE",
              help="Set a parameter of PostgreSQL, as in work_mem=64MB; null removes it. May be repeated.")
@click.option("--apply", "merged", metavar="FILE", help="Merge this YAML file, in which null removes; - reads standard input.")
@click.option("--replace", "replaced", metavar="FILE", help="Replace everything by this YAML file; - reads standard input.")
@force_option
@click.pass_obj
def edit_config(session: Session, name: str | None, group: int | None, quiet: bool, settings: tuple[str, ...],
                parameters: tuple[str, ...], merged: str | None, replaced: str | None, force: bool) -> None:
    """Change the cluster-wide configuration: by options, from a file, or in an editor ($EDITOR)."""
    if merged == replaced == "-":
        raise click.ClickException("--apply and --replace cannot both read standard input")
    group = session.own_group(group)
    with session.cluster(name, group) as cluster:
        view = cluster.read()
    if view.config is None:
        raise click.ClickException(f"The config key does not exist in the cluster {cluster.scope}")
    if view.config.document is None and replaced is None:
        raise click.ClickException(f"the configuration of {cluster.scope} in the store cannot be read: use --replace")
    before = dict(view.config.document or {})
    if settings or parameters or merged or replaced:
        after = _with(before, settings, parameters, merged, replaced)
        _check(view, before, after)
    else:
        after = _edited(cluster.scope, view, before)
    if after == before and view.config.document is not None:
        if not quiet:
            click.echo("Not changed")
        return
    if not quiet:
        _show(before, after)
    if "-" in (merged, replaced) and not force:
        click.echo("Use --force option to apply changes")
        return
    if not force:
        click.confirm("Apply these changes?", abort=True)
    with session.cluster(name, group) as cluster:  # opened anew: an editor may have been open for long
        _write(cluster, after, view.config.version)
    click.echo("Configuration changed")


def _write(cluster: Cluster, document: Document, seen: str) -> None:
    """Raises ClickException if somebody else has written since, or nobody can say."""
    try:
        result = cluster.store.put(Key.CONFIG, compact(document), expect=version(seen), deadline=Deadline.after(READ_S))
    except StoreUnavailableError as error:
        raise click.ClickException(f"{error}; the change may or may not be written, see pgcore show-config") from error
    if isinstance(result, Refused):
        raise click.ClickException("Config modification aborted due to concurrent changes")


# -- what shall change -----------------------------------------------------------------------------------------------------


def _with(document: Document, settings: Sequence[str], parameters: Sequence[str], merged: str | None,
          replaced: str | None) -> Document:
    """Replaced, then merged into, then with single values set."""
    if replaced is not None:
        document = _read(replaced)
    if merged is not None:
        document = _without_nulls(patch(document, _read(merged)))
    for setting in settings:
        path, value = _halves(setting)
        words = path.split(".")
        if words[:2] == ["postgresql", "parameters"]:
            words = [*words[:2], *([".".join(words[2:])] if words[2:] else [])]  # names of parameters may hold dots
        document = _set(document, words, _scalar(value, setting))
    for parameter in parameters:
        path, value = _halves(parameter)
        document = _set(document, ["postgresql", "parameters", path], _parameter(value))
    return document


def _halves(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise click.ClickException(f"Invalid parameter setting {text} (write name=value)")
    return path, value


def _set(document: Mapping[str, Json], words: Sequence[str], value: Json) -> Document:
    """With the value at that path, or without it if it is None, and then without the parents that this has emptied."""
    result, (word, *rest) = dict(document), words
    if rest:
        below = result.get(word)
        if value is None and not isinstance(below, Mapping):
            return result
        value = _set(below if isinstance(below, Mapping) else {}, rest, value) or None
    if value is None:
        result.pop(word, None)
    else:
        result[word] = value
    return result


def _without_nulls(document: Mapping[str, Json]) -> Document:
    """Nothing that is null, as in a new mapping that was merged whole: null means absent."""
    return {key: _without_nulls(value) if isinstance(value, Mapping) else value for key, value in document.items()
            if value is not None}


def _read(path: str) -> Document:
    """A YAML file. Raises ConfigError, which names file and line, and ClickException."""
    try:
        text = sys.stdin.read() if path == "-" else _text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return _mapping(text, "standard input" if path == "-" else path)


def _mapping(text: str, source: str) -> Document:
    tree, places, warnings = read_yaml(text, source, "write it as pgcore show-config prints it")
    if warnings:
        raise warnings[0]
    return {key: _plain(value, key, places(key)) for key, value in tree.items()}


def _text_of(path: str) -> str:
    return _bytes_of(path).decode("utf-8")


def _scalar(text: str, setting: str) -> Json:
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise click.ClickException(f"{setting} holds no YAML value: put it in quotes") from error
    return _plain(value, setting, "")


def _parameter(text: str) -> Json:
    """As in ``--set``, but what is neither a number nor a truth value is text as it stands: ``%m [%p]``, ``a: b``."""
    try:
        value = _scalar(text, text)
    except (click.ClickException, ConfigError):
        return text
    return text if isinstance(value, (dict, list)) else value


def _plain(value: Any, path: str, place: str) -> Json:
    """The value as JSON can hold it. Raises ConfigError for one that it cannot."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}", place) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, path, place) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(path, f"is read as {type(value).__name__}: {value}", "put it in quotes to make it text", place)


def _edited(scope: str, view: ClusterView, before: Document) -> Document:
    """What an editor makes of it. A text that cannot be used is kept in its file."""
    text = yaml_text(before)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=f"{scope}-config-", suffix=".yaml", delete=False) as file:
        file.write(text)
    kept = ""
    try:
        _run_editor(file.name)
        after = _mapping(_text_of(file.name), file.name)
        _check(view, before, after)
        return after
    except (PgcoreError, click.ClickException, OSError, UnicodeDecodeError) as error:
        if os.path.exists(file.name) and _bytes_of(file.name) != text.encode():
            kept = file.name
        told = error.message if isinstance(error, click.ClickException) else str(error)
        raise click.ClickException(told + (f"; the text is kept in {kept}" if kept else "")) from error
    finally:
        if not kept:
            with suppress(FileNotFoundError):
                os.unlink(file.name)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _run_editor(path: str) -> None:
    wanted = os.environ.get("EDITOR") or shutil.which("editor") or "vi"
    try:
        code = subprocess.run([*shlex.split(wanted), path], check=False).returncode
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the editor {wanted} cannot be run: {error}: set EDITOR, or use --set or --apply") from error
    if code != 0:
        raise click.ClickException(f"Editor exited with return code {code}")


# -- what that means -------------------------------------------------------------------------------------------------------


def _check(view: ClusterView, before: Document, after: Document) -> None:
    """Warn of what would have no effect. Raises ClickException for what all agents would refuse, unless it was there before."""
    old, new = _notes(view, before), _notes(view, after)
    if errors := [text for text in new[0] if text not in old[0]]:
        raise click.ClickException("; ".join(errors) + "; nothing was written")
    for text in [*new[0], *(text for text in new[1] if text not in old[1])]:
        click.echo(f"Warning: {text}", err=True)


def _notes(view: ClusterView, document: Document) -> tuple[list[str], list[str]]:
    notes = Notes("")
    read_document(document, notes, patroni_present=view.patroni_present)
    return ([f"{error.path} {error.problem}" for error in notes.errors],
            [f"{warning.path} {warning.problem}" for warning in notes.warnings])


def _show(before: Document, after: Document) -> None:
    """The difference; on a terminal in colours, and page by page when it does not fit."""
    lines = [line.rstrip("\n") for line in difflib.unified_diff(yaml_text(before).splitlines(), yaml_text(after).splitlines(),
                                                                lineterm="")]
    if not sys.stdout.isatty():
        click.echo("\n".join(lines))
        return
    text = "\n".join(click.style(line, fg=_COLOURS.get(line[:1])) for line in lines)
    if len(lines) >= shutil.get_terminal_size().lines:
        click.echo_via_pager(text + "\n")
    else:
        click.echo(text)
