"""Which instance this is: the instance metadata service, version 2 only."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass

TOKEN_S = 60
TIMEOUT_S = 2.0
ADDRESSES = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The service is on the link: no proxy leads there, whatever the environment says."""


class IdentityError(Exception):
    """The metadata service did not say who we are."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The instance and where it runs."""

    instance: str
    region: str


def address() -> str:
    """Where the service is, by the variables that AWS's own programs read. Raises IdentityError if they switch it off."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise IdentityError("AWS_EC2_METADATA_DISABLED forbids to ask the metadata service who this is")
    mode = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv4").lower()
    endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ADDRESSES.get(mode, ADDRESSES["ipv4"])
    return endpoint.rstrip("/")


def identity() -> Identity:
    """Get a token with PUT, and with it the identity document. Raises IdentityError; takes at most a few seconds."""
    base = address()
    token = _ask(f"{base}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}).strip()
    text = _ask(f"{base}/latest/dynamic/instance-identity/document", "GET", {"X-aws-ec2-metadata-token": token})
    try:
        document = json.loads(text)
        return Identity(str(document["instanceId"]), str(document["region"]))
    except (ValueError, TypeError, KeyError) as error:
        raise IdentityError(f"the identity document of {base} names no instance and region: {text[:100]!r}") from error


def _ask(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with _direct.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read(65536).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        raise IdentityError(f"{method} {url} answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise IdentityError(
            f"{method} {url}: {reason}. Is this an EC2 instance? In a container the hop limit of its metadata service must be 2"
        ) from error
