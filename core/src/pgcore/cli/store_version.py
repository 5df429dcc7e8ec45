"""Which release a store is, asked of its first server that answers, over plain HTTP: etcd and Consul tell it to everybody."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pgcore.config.values import parse_bool, split_address, split_list
from pgcore.model.basics import Json

ANSWER_S = 2.0
_ASKED = {"etcd": ("/version", 2379, ("etcdserver",)), "etcd3": ("/version", 2379, ("etcdserver",)),
          "consul": ("/v1/agent/self", 8500, ("Config", "Version"))}


def store_version(store: str, section: Mapping[str, Json]) -> str:
    """The release as the server calls it; empty for other stores, and if no server tells."""
    if store not in _ASKED:
        return ""
    path, _, keys = _ASKED[store]
    for scheme, host, port in _servers(store, section):
        try:
            answer: Json = json.loads(_get(scheme, host, port, path, section))
        except (OSError, ValueError, http.client.HTTPException):
            continue
        for key in keys:
            answer = answer.get(key) if isinstance(answer, dict) else None
        if isinstance(answer, str):
            return answer
    return ""


def _servers(store: str, section: Mapping[str, Json]) -> Iterator[tuple[str, str, int]]:
    given = next((section[key] for key in ("proxy", "url", "hosts", "host") if section.get(key)), "127.0.0.1")
    default = section.get("port") if isinstance(section.get("port"), int) else _ASKED[store][1]
    for word in split_list(given) if isinstance(given, str) else given if isinstance(given, list) else ():
        text = str(word)
        parts = urlsplit(text if "://" in text else f"//{text}")
        scheme = parts.scheme or str(section.get("protocol") or section.get("scheme") or "http")
        try:
            yield scheme, *split_address(parts.netloc.rpartition("@")[2], default)
        except ValueError:
            continue  # `pgcore validate` tells it


def _get(scheme: str, host: str, port: int, path: str, section: Mapping[str, Json]) -> bytes:
    """The body of an answer. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    if scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=_tls(section))
    try:
        connection.request("GET", path, headers={"X-Consul-Token": str(section["token"])} if section.get("token") else {})
        return connection.getresponse().read()
    finally:
        connection.close()


def _tls(section: Mapping[str, Json]) -> ssl.SSLContext:
    cacert, cert, key = (section.get(name) for name in ("cacert", "cert", "key"))
    context = ssl.create_default_context(cafile=str(cacert) if cacert else None)
    if parse_bool(section.get("verify")) is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if cert:
        context.load_cert_chain(str(cert), str(key) if key else None)
    return context
