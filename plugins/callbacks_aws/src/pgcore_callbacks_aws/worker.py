"""``pgcore-aws EVENT ROLE SCOPE``, also under the name ``patroni_aws``: tags this instance and its volumes, then ends.

The plugin runs it for each role, operators may name it under ``postgresql.callbacks``. The only module that imports boto3.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from pgcore_callbacks_aws.identity import Identity, IdentityError, identity
from pgcore_callbacks_aws.section import LIMIT_S, VOLUME_NAME

EVENTS = ("on_start", "on_stop", "on_role_change")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
CONNECT_S, READ_S = 5, 10
USAGE, NOT_TAGGED = 1, 2
"""Exit codes besides 0."""
PASSING = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
                     "TooManyRequestsException", "ExpiredToken", "RequestExpired", "InvalidInstanceID.NotFound",
                     "InvalidVolume.NotFound"})
"""Errors of a request that may succeed later as it is; so may all with a status of 500 or more."""


class RefusedError(Exception):
    """AWS says no, and would say it again."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What is to be told."""

    role: str
    scope: str
    volumes: bool
    volume_name: str

    def of_instance(self) -> list[dict[str, str]]:
        """For the instance."""
        return [{"Key": "Role", "Value": self.role}]

    def of_volumes(self, instance: str) -> list[dict[str, str]]:
        """For each of its volumes."""
        name = self.volume_name.replace("{scope}", self.scope)
        named = [{"Key": "Name", "Value": name}] if name else []
        return [*named, {"Key": "Role", "Value": self.role}, {"Key": "Instance", "Value": instance}]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=os.path.basename(sys.argv[0]), description="Tag this EC2 instance and its EBS volumes with a role.")
    parser.add_argument("event", choices=EVENTS)
    parser.add_argument("role")
    parser.add_argument("scope", help="name of the cluster")
    parser.add_argument("--region", help="region of the EC2 API (the instance's own)")
    parser.add_argument("--endpoint-url", help="address of the EC2 API (AWS's own)")
    parser.add_argument("--volume-name", default=VOLUME_NAME, help="tag Name of the volumes; empty: left alone (%(default)s)")
    parser.add_argument("--instance-only", action="store_true", help="leave the volumes alone")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for everything (%(default)s)")
    parser.add_argument("--attended", action="store_true", help=argparse.SUPPRESS)  # ends with who holds its standard input
    return parser


def main() -> int:
    """Entry point; the exit code: 0 tagged, 1 wrong arguments, 2 not tagged."""
    given = _parser().parse_args()
    began = time.monotonic()
    last = ["nothing was answered"]

    def out_of_time() -> None:
        _end(f"gave up after {given.limit:g} s: {last[0]}")

    # A name server that hangs cannot be interrupted: the limit is kept by a thread that ends the process.
    limit = threading.Timer(given.limit, out_of_time)
    limit.daemon = True
    limit.start()
    if given.attended:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    tags = Tags(given.role, given.scope, not given.instance_only, given.volume_name)
    pause = FIRST_PAUSE_S
    while True:
        try:
            print(tag(tags, given.region, given.endpoint_url), flush=True)
            return 0
        except RefusedError as error:
            print(f"refused: {error}", file=sys.stderr, flush=True)
            return NOT_TAGGED
        except Exception as error:  # whatever boto3 raises: it is tried again until the time is over
            last[0] = f"{error}" if isinstance(error, IdentityError) else f"{type(error).__name__}: {error}"
        wait = pause * random.uniform(0.5, 1.0)
        if time.monotonic() - began + wait >= given.limit:
            _end(f"gave up after {time.monotonic() - began:.0f} s: {last[0]}")
        print(f"tried again in {wait:.1f} s: {last[0]}", file=sys.stderr, flush=True)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def tag(tags: Tags, region: str | None, endpoint_url: str | None) -> str:
    """One attempt; what was done, for the log. Raises RefusedError, IdentityError and what boto3 raises for the rest."""
    me = identity()
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    bounds = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"mode": "standard", "total_max_attempts": 1})
    try:
        ec2 = boto3.client("ec2", region_name=region or me.region, endpoint_url=endpoint_url, config=bounds)
        return _tag(ec2, me, tags)
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in PASSING or status >= 500:
            raise
        raise RefusedError(str(error)) from error


def _tag(ec2: Any, me: Identity, tags: Tags) -> str:
    ec2.create_tags(Resources=[me.instance], Tags=tags.of_instance())
    if not tags.volumes:
        return f"{me.instance} is tagged Role={tags.role}"
    pages = ec2.get_paginator("describe_volumes").paginate(Filters=[{"Name": "attachment.instance-id", "Values": [me.instance]}])
    volumes = [volume["VolumeId"] for page in pages for volume in page["Volumes"]]
    if volumes:
        ec2.create_tags(Resources=volumes, Tags=tags.of_volumes(me.instance))
    return f"{me.instance} and its volumes {', '.join(volumes) or '(none)'} are tagged Role={tags.role}"


def _leave_with_parent() -> None:
    """Nothing is written to the standard input: it ends when the agent does, and then the next agent tells its own role."""
    os.read(0, 1)  # not by sys.stdin, whose lock must be free when the interpreter ends
    os._exit(NOT_TAGGED)


def _end(text: str) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    os._exit(NOT_TAGGED)


if __name__ == "__main__":
    sys.exit(main())
