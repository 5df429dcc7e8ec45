"""WAL-E from PyPI in a virtual environment of its own, with a bucket of moto's S3."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.predecessor import environment

VERSION = "1.1.1"


def install() -> Path:
    """The directory with ``wal-e`` and ``envdir``. Raises ``subprocess.CalledProcessError`` when pip fails."""
    return environment(f"wal-e-{VERSION}", "wal-e", f"wal-e[aws]=={VERSION}", "envdir", "setuptools<80") / "bin"


@contextmanager
def bucket(name: str = "backups") -> Iterator[str]:
    """S3 with an empty bucket; its ``host:port``.

    moto keeps its data in this process, beyond the end of a server: what an earlier bucket held is dropped.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"", timeout=30):
            pass
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="test",
                          aws_secret_access_key="test")
        s3.create_bucket(Bucket=name)
        yield f"{host}:{port}"
    finally:
        server.stop()


def write_envdir(directory: Path, endpoint: str) -> Path:
    """WAL-E's variables as ``envdir`` reads them."""
    directory.mkdir()
    variables = {"WALE_S3_PREFIX": "s3://backups/demo", "WALE_S3_ENDPOINT": f"http+path://{endpoint}",
                 "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "WALE_LOG_DESTINATION": "stderr"}
    for name, value in variables.items():
        (directory / name).write_text(value)
    return directory
