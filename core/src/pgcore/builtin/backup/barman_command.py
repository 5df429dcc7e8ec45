"""``pgcore-barman``: restores and configuration switches by Barman's HTTP service, with the flags people have (config 10.3)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from pgcore.builtin.backup.barman_api import ApiError, BarmanApi

DONE = 0
RECOVER_FAILED, RECOVER_UNREACHABLE = 1, 2
SWITCH_SKIPPED, SWITCH_FAILED, SWITCH_UNREACHABLE, SWITCH_WRONG = 1, 2, 3, 4
ROLES = {"promoted": ("primary", "promoted", "master"), "demoted": ("replica", "demoted")}
"""For which roles ``--switch-when`` means yes."""
SWITCH_POLL_S = 5.0
logger = logging.getLogger("pgcore-barman")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the operation."""
    given, unknown = parser().parse_known_args(arguments)
    output = logging.FileHandler(given.log_file) if given.log_file else logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s", handlers=[output])
    if unknown and given.run is config_switch:
        logger.error("unknown arguments: %s", " ".join(unknown))
        return SWITCH_WRONG
    return int(given.run(given, BarmanApi(given.api_url, given.cert_file, given.key_file, given.retry_wait, given.max_retries)))


def recover(given: argparse.Namespace, api: BarmanApi) -> int:
    """A backup into the data directory of this node: 0 done, 1 failed, 2 the service does not answer."""
    try:
        api.check()
        operation = api.begin(given.barman_server, {
            "type": "recovery", "backup_id": given.backup_id, "remote_ssh_command": given.ssh_command,
            "destination_directory": given.datadir})
        status = api.wait(given.barman_server, operation, given.loop_wait)
    except ApiError as error:
        logger.error("%s", error)
        return RECOVER_UNREACHABLE
    logger.info("recovery %s of %s ended: %s", operation, given.backup_id, status)
    return DONE if status == "DONE" else RECOVER_FAILED


def config_switch(given: argparse.Namespace, api: BarmanApi) -> int:
    """Another model of Barman's configuration: 0 done, 1 not for this role, 2 failed, 3 no answer, 4 wrong arguments."""
    if bool(given.barman_model) == given.reset:
        logger.error("give one of --barman-model and --reset")
        return SWITCH_WRONG
    if given.switch_when != "always" and given.role not in ROLES[given.switch_when]:
        logger.info("nothing to switch: the role is %s, and --switch-when is %s", given.role, given.switch_when)
        return SWITCH_SKIPPED
    wanted = {"reset": True} if given.reset else {"model_name": given.barman_model}
    try:
        api.check()
        operation = api.begin(given.barman_server, {"type": "config_switch", **wanted})
        status = api.wait(given.barman_server, operation, SWITCH_POLL_S)
    except ApiError as error:
        logger.error("%s", error)
        return SWITCH_UNREACHABLE
    logger.info("configuration switch %s ended: %s", operation, status)
    return DONE if status == "DONE" else SWITCH_FAILED


def parser() -> argparse.ArgumentParser:
    """The flags of both operations."""
    found = argparse.ArgumentParser("pgcore-barman", description="Asks Barman's HTTP service (pg-backup-api).")
    found.add_argument("--api-url", required=True, help="address of the service, such as https://backup:7480")
    found.add_argument("--cert-file", help="client certificate")
    found.add_argument("--key-file", help="its key")
    found.add_argument("--retry-wait", type=float, default=2, help="seconds before a request is repeated")
    found.add_argument("--max-retries", type=int, default=5, help="how often it is repeated")
    found.add_argument("--log-file", help="instead of standard error")
    operations = found.add_subparsers(required=True, metavar="recover|config-switch")
    restore = operations.add_parser("recover", help="restore a backup to this node")
    restore.add_argument("--barman-server", required=True, help="the server of Barman's configuration")
    restore.add_argument("--ssh-command", required=True, help="how Barman reaches this node")
    restore.add_argument("--datadir", "--data-directory", required=True, help="data directory")
    restore.add_argument("--backup-id", default="latest", help="which backup")
    restore.add_argument("--loop-wait", type=float, default=10, help="seconds between looks at the operation")
    restore.set_defaults(run=recover)
    switch = operations.add_parser("config-switch", help="apply another model of Barman's configuration: a callback")
    switch.add_argument("--barman-server", required=True, help="the server of Barman's configuration")
    switch.add_argument("--barman-model", help="the model to apply")
    switch.add_argument("--reset", action="store_true", help="go back to the server's own configuration")
    switch.add_argument("--switch-when", choices=("promoted", "demoted", "always"), default="promoted",
                        help="for which change of role")
    switch.add_argument("action", choices=("on_role_change",), help="given by the agent")
    switch.add_argument("role", help="given by the agent")
    switch.add_argument("cluster", help="given by the agent")
    switch.set_defaults(run=config_switch)
    return found
