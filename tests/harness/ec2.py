"""EC2 by moto behind a door that can refuse, a metadata service that insists on version 2, and an instance with two volumes."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

REGION = "eu-central-1"
REFUSAL = '<?xml version="1.0"?><Response><Errors><Error><Code>{}</Code><Message>no</Message></Error></Errors></Response>'
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": ""}


class Server:
    """An HTTP server on loopback; the handler finds it as ``self.server.owner``."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], address: str = "127.0.0.1", port: int = 0) -> None:
        self._http = ThreadingHTTPServer((address, port), handler)
        self._http.daemon_threads = True
        self._http.owner = self  # type: ignore[attr-defined]
        self.url = f"http://{address}:{self._http.server_address[1]}"
        self.requests: list[str] = []
        Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Handler(BaseHTTPRequestHandler):
    """A handler that is silent and knows its owner."""

    owner = property(lambda self: self.server.owner)

    def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _MetadataHandler(Handler):
    def do_PUT(self) -> None:
        self.owner.requests.append(f"PUT {self.path}")
        if self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            self.answer(200, b"the token")
        else:
            self.answer(400, b"")

    def do_GET(self) -> None:
        self.owner.requests.append(f"GET {self.path}")
        if self.headers["X-aws-ec2-metadata-token"] != "the token":
            self.answer(401, b"")
        else:
            self.answer(200, json.dumps({"instanceId": self.owner.instance, "region": REGION}).encode())


class Metadata(Server):
    """The metadata service of one instance, HttpTokens=required."""

    def __init__(self, instance: str, address: str = "127.0.0.1", port: int = 0) -> None:
        self.instance = instance
        super().__init__(_MetadataHandler, address, port)


class _DoorHandler(Handler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        action = dict(pair.split("=", 1) for pair in body.decode().split("&"))["Action"]
        self.owner.requests.append(action)
        self.owner.open.wait()
        refusals = self.owner.refusals
        if refusals:
            status, code = refusals.pop(0)
            return self.answer(status, REFUSAL.format(code).encode(), "text/xml")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.owner.target, body, headers), timeout=10) as found:
                self.answer(found.status, found.read(), "text/xml")
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read(), "text/xml")


class Door(Server):
    """The way to EC2. ``refusals`` are the next answers, as status and code; while ``open`` is not set nobody is answered."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.refusals: list[tuple[int, str]] = []
        self.open = Event()
        self.open.set()
        super().__init__(_DoorHandler)


class Machine:
    """An instance with two volumes, what it is asked through, and what it is tagged with."""

    def __init__(self, ec2: Any, target: str, image: str) -> None:
        self._ec2 = ec2
        found = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
        self.instance: str = found["InstanceId"]
        zone = found["Placement"]["AvailabilityZone"]
        more = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        ec2.attach_volume(VolumeId=more, InstanceId=self.instance, Device="/dev/sdh")
        self.strange: str = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        attached = [{"Name": "attachment.instance-id", "Values": [self.instance]}]
        self.volumes = sorted(each["VolumeId"] for each in ec2.describe_volumes(Filters=attached)["Volumes"])
        assert len(self.volumes) == 2 and more in self.volumes
        self.metadata, self.door = Metadata(self.instance), Door(target)

    def environment(self) -> dict[str, str]:
        """What a process needs to believe that it runs there."""
        places = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url, "AWS_ENDPOINT_URL_EC2": self.door.url}
        return {**os.environ, **KEYS, **places}

    def tags(self, resource: str) -> dict[str, str]:
        found = self._ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [resource]}])["Tags"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def role(self) -> str | None:
        return self.tags(self.instance).get("Role")

    def close(self) -> None:
        self.door.open.set()
        self.metadata.close()
        self.door.close()


@contextmanager
def ec2() -> Iterator[tuple[Any, str, str]]:
    """A client of moto's EC2, its address, and an image."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("ec2", region_name=REGION, endpoint_url=url, **keys)
    try:
        yield client, url, client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    finally:
        server.stop()
