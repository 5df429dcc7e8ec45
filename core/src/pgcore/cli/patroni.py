"""The program under the name ``patroni``: its options for one node (CLI 6). argparse, as options may be cut short there too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pgcore import PATRONI_VERSION, __version__
from pgcore.cli.validate import print_local, problems
from pgcore.config.validate import Problem
from pgcore.errors import PgcoreError
from pgcore.model.basics import Timing

_MISSING = "is required but missing"


def main(argv: Sequence[str]) -> int:
    """Do what the options say; the exit code. Without a mode the program is replaced by the agent."""
    options = _parser().parse_args(argv)
    try:
        if options.validate_config:
            return _validate(options)
        if options.generate_config or options.generate_sample_config:
            return _generate(options)
    except PgcoreError as error:
        print(error, file=sys.stderr)
        return 1
    for name, mode in (("ignore_listen_port", "validate"), ("print", "validate"), ("dsn", "generate")):
        if getattr(options, name):
            print(f"--{name.replace('_', '-')} has no effect without --{mode}-config", file=sys.stderr)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pgcore", "run", *([options.configfile] if options.configfile else [])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("patroni", description="pgcore, called like Patroni: run the agent of this node, or one of "
                                                            "the modes below. `pgcore --help` shows the other commands.")
    parser.add_argument("configfile", nargs="?", help="file or directory; without it PATRONI_CONFIGURATION or the variables "
                                                      "PATRONI_* and PGCORE_*")
    parser.add_argument("--version", action="version", version=f"patroni {PATRONI_VERSION} (pgcore {__version__})")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--validate-config", action="store_true", help="check the configuration and end: 0 is good")
    modes.add_argument("--generate-config", action="store_true", help="write a node file for a server that runs, to "
                                                                      "configfile or standard output")
    modes.add_argument("--generate-sample-config", action="store_true", help="write a node file with defaults there")
    parser.add_argument("--dsn", help="with --generate-config: the server, as a superuser; else PGHOST, PGUSER and the like")
    parser.add_argument("-i", "--ignore-listen-port", action="store_true", help="when checking: listen addresses may be in use")
    parser.add_argument("-p", "--print", action="store_true", help="when checking: print the local configuration, environment "
                                                                   "included, secrets masked")
    return parser


def _validate(options: argparse.Namespace) -> int:
    """Silent when all is well; else a line for each problem on standard error, in the words scripts know."""
    found = problems(options.configfile, os.environ, ignore_listen_port=options.ignore_listen_port)
    for problem in found:
        print(_line(problem), file=sys.stderr)
    if options.print:
        print_local(options.configfile, os.environ, secrets=False)
    return int(any(problem.level == "error" for problem in found))


def _generate(options: argparse.Namespace) -> int:
    """With the timing that Patroni members can follow. A file that is there is replaced, as scripts expect, and kept beside."""
    from pgcore.cli.generate import make_of_server, make_sample, write

    try:
        file = make_of_server(options.dsn, os.environ, Timing()) if options.generate_config else make_sample(os.environ, Timing())
        write(file, Path(options.configfile) if options.configfile else None, force=True)
    except click.exceptions.Abort:
        print("no password was given", file=sys.stderr)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


def _line(problem: Problem) -> str:
    if problem.level == "warning":
        return str(problem)
    remedy = f" ({problem.remedy})" if problem.remedy else ""
    if not problem.path:
        text = f"{problem.source}: {problem.problem}{remedy}".removeprefix(": ")
    elif problem.problem == _MISSING:
        text = f"{problem.path} is not defined.{remedy}"
    else:
        value = "" if problem.value is None else f" {problem.value}"
        text = f"{problem.path}{value} didn't pass validation: {problem.problem}{remedy}"
    return " ".join(text.split())
