"""The OpenAPI document says what the server does: every route, no other, and every field of the documents."""

from __future__ import annotations

import ast
import inspect
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pgcore.clock import now
from pgcore.daemon.board import Board, DonePhase, Status
from pgcore.daemon.mailbox import Mailbox
from pgcore.model.basics import Instant, Json, Lsn
from pgcore.model.cluster import FailoverRequest, HistoryEntry
from pgcore.rest import checks
from pgcore.rest import status as documents
from pgcore.rest.openapi import described
from pgcore.rest.routes import CHECK_PATHS, CHECK_WORDS, Routes
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import Reply, aged, call, leader_status, member, primary_node, replica_node, status, view
from unit.test_daemon_kit import plugins_on_path

DOCUMENT = json.loads(described(Routes()))
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
WORDS = [*sorted({path.split("/")[1] for path in DOCUMENT["paths"]} - {"", "{path}"}), "sigterm", "plugin", "default", "foo"]


def operation(method: str, word: str) -> dict[str, Any] | None:
    """What the document says about this method of this path itself."""
    found: dict[str, Any] | None = DOCUMENT["paths"].get(f"/{word}", {}).get(method.lower())
    return found


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[..., Reply]]:
    """A server whose heartbeat never answers, so that nothing is done; every request is refused for want of a password."""
    board = Board()
    board.publish(leader_status())
    settings = RestSettings("127.0.0.1:0", username="admin", password="secret")
    server = RestServer(settings, board, Mailbox(), lambda seconds: None)
    server.start()
    yield lambda method, path, **more: call(server.bound[0], method, path, **more)
    server.stop()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("word", WORDS)
def test_the_document_knows_a_route_if_and_only_if_the_server_answers_it(
        ask: Callable[..., Reply], word: str, method: str) -> None:
    reply, told = ask(method, f"/{word}"), operation(method, word)
    if method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (reply.code == 501) == (told is None)
        assert told is None or (reply.code == 401 and told["security"])
        return
    if method == "GET" and told is not None and f"/{word}" not in checked():
        assert str(reply.code) in told["responses"] and "security" not in told
        assert reply.body == "" or "state" not in reply.body[:20] or word == "patroni"
        return
    at, seen = now(), leader_status()
    assert reply.code == checks.health(seen, f"/{word}", {}, at)
    told = told or DOCUMENT["paths"]["/{path}"][method.lower()]
    assert str(reply.code) in told["responses"]
    assert json.loads(reply.body)["patroni"]["name"] == "a" if method == "GET" else reply.body == ""


def checked() -> set[str]:
    """The health checks."""
    return {*CHECK_PATHS, *(f"/{word}" for word in CHECK_WORDS)}


def test_the_words_of_health_checks_are_those_that_decide() -> None:
    """Among all observations there is one that passes on each of them, and none that passes on any other path."""
    seen: list[Status] = [
        leader_status(), leader_status(standby_cluster=True), status(), status(cluster=view(sync=("b",)), synchronous="on"),
        status(cluster=view(sync=("b",)), synchronous="quorum"), status(standby_cluster=True, leads=True)]
    for path in (*CHECK_PATHS, *(f"/x{word}x" for word in CHECK_WORDS)):
        assert any(checks.health(each, path, {}, now()) == 200 for each in seen), path
    for path in ("/x", "/config", "/syncs", "/a/sync", "/quorums", "/repl", "/lead", "/liveness", "*", ""):
        assert all(checks.health(each, path, {}, now()) == 503 for each in seen), path


def test_unknown_paths_stand_for_no_path_that_is_described() -> None:
    (name, *_) = DOCUMENT["paths"]["/{path}"]["get"]["parameters"]
    described_elsewhere = {path[1:] for path, methods in DOCUMENT["paths"].items() if "get" in methods and path != "/{path}"}
    assert set(name["schema"]["not"]["enum"]) | {""} == described_elsewhere | {""}


def test_the_document_is_served_to_everybody_and_always_the_same(ask: Callable[..., Reply]) -> None:
    first, second = ask("GET", "/openapi.json"), ask("GET", "/openapi.json?x=1")
    assert (first.code, first.headers["Content-Type"], first.body) == (200, "application/json", second.body)
    assert json.loads(first.body) == DOCUMENT


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        validator(name)
    text = json.dumps(DOCUMENT)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in DOCUMENT["components"]["schemas"]
    identifiers = [each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values() if "operationId" in each]
    assert len(identifiers) == len(set(identifiers))


# -- the documents -----------------------------------------------------------------------------------------------------------


def validator(name: str, *, strict: bool = False) -> Any:
    """Of the schema of this name; a strict one refuses fields that it does not name."""
    schemas = DOCUMENT["components"]["schemas"]
    if strict:
        schemas = {key: _closed(schema) for key, schema in schemas.items()}
    return Draft202012Validator({"components": {"schemas": schemas}, "$ref": f"#/components/schemas/{name}"})


def _closed(schema: Json) -> Json:
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        is_object = closed.get("type") == "object" and "properties" in closed
        return {"additionalProperties": False, **closed} if is_object else closed
    return [_closed(each) for each in schema] if isinstance(schema, list) else schema


SEEN: dict[str, Status] = {
    "a leader": leader_status(),
    "a replica": status(),
    "a silent server": status(node=replica_node(answering=False)),
    "without the store": status(cluster=None, failsafe_until=Instant(now() + 100)),
    "in maintenance": leader_status(paused=True, tags={"nofailover": True, "zone": 3}),
    "synchronous": status(cluster=view(sync=("b",)), synchronous="on"),
    "a quorum": status(cluster=view(sync=("b",)), synchronous="quorum"),
    "waiting for a restart": status(
        node=primary_node(pending_restart={"max_connections": {"old_value": "100", "new_value": "200"}}),
        scheduled_restart={"schedule": "2030-01-01T00:00:00+00:00", "restart_pending": True, "timeout": 30}),
    "after a long action": leader_status(phases=(DonePhase(1, "stop: stopping", Instant(now() - 2), now()),)),
    "copying": status(task={"kind": "copy", "seconds": 1.5}, node=replica_node(answering=False, timeline=None)),
}


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("fresh", [None, (Lsn(7), Lsn(6), False)])
def test_a_node_is_described_with_all_its_fields(name: str, fresh: documents.Positions | None) -> None:
    document = documents.node_document(SEEN[name], now(), fresh, asked=fresh is not None)
    validator("Node", strict=True).validate(json.loads(json.dumps(document, default=str)))


def test_a_cluster_and_its_history_are_described_with_all_their_fields() -> None:
    pending = {"pending_restart": True, "pending_restart_reason": {"x": {"old_value": "1", "new_value": "2"}}}
    seen = view(
        members=(member("a", "primary"), member("b", tags={"zone": 1}, **pending), member("c", state="creating replica")),
        failover=FailoverRequest("1", "a", "b", "2030-01-01T00:00:00+00:00"),
        history=(HistoryEntry(1, Lsn(5), "no recovery target specified", "2026-01-01T00:00:00+00:00", "a"),))
    for mode in (documents.ClusterMode(), documents.ClusterMode("quorum", True, True)):
        validator("Cluster", strict=True).validate(documents.cluster_document(seen, "demo", mode))
    validator("History").validate(documents.history_document(seen))


def test_every_field_that_the_documents_are_built_from_is_described() -> None:
    """Also one that is there only now and then: by the keys in the source."""
    tree = ast.walk(ast.parse(inspect.getsource(documents)))
    keys = {key for node in tree for key in (node.keys if isinstance(node, ast.Dict) else [node.slice] if _stored(node) else [])}
    named = {key.value for key in keys if isinstance(key, ast.Constant)}
    assert {"state", "xlog", "writes", "pause", "at"} <= named <= set(_properties(DOCUMENT["components"]["schemas"]))


def _stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)


def _properties(schema: Json) -> Iterator[str]:
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _properties(value)
    if isinstance(schema, dict):
        yield from schema.get("properties", ())


def test_a_schema_refuses_what_is_no_such_document() -> None:
    """The tests above can fail."""
    document = documents.node_document(leader_status(), now()) | {"surprise": 1}
    assert validator("Node").is_valid(json.loads(json.dumps(document, default=str)))
    assert not validator("Node", strict=True).is_valid(json.loads(json.dumps(document, default=str)))
    assert not validator("Node").is_valid({"state": "fine"})
    assert not validator("Cluster").is_valid({"members": [{"name": "a"}], "scope": "x"})


# -- plugins -----------------------------------------------------------------------------------------------------------------

TOY = """
@hookimpl
def pgcore_rest_routes():
    return [Route("GET", "/toy", None, unsafe=False, summary="Toys.", description={
                "parameters": [{"name": "size", "in": "query", "schema": {"type": "integer"}}],
                "responses": {"200": {"description": "All of them."}}}),
            Route("DELETE", "/toy/last", None)]
"""


def test_the_endpoints_of_plugins_are_described_with_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        paths = json.loads(described(Routes(plugins.registry(toy=TOY).rest_routes())))["paths"]
    toys, last = paths["/toy"]["get"], paths["/toy/last"]["delete"]
    assert (toys["summary"], toys["parameters"][0]["name"], toys["tags"]) == ("Toys.", "size", ["plugins"])
    assert {"200", "500"} <= set(toys["responses"]) and "security" not in toys and "default" not in toys["responses"]
    assert last["security"] and {"401", "403", "default"} <= set(last["responses"]) and "toy" in last["summary"]
    assert "toy" in paths["/{path}"]["get"]["parameters"][0]["schema"]["not"]["enum"]


def test_what_reads_the_document_is_a_tool_of_the_tests_only() -> None:
    root = Path(__file__).parents[2]
    assert "schemathesis" not in json.dumps(tomllib.loads((root / "core" / "pyproject.toml").read_text()))


def test_a_node_that_has_seen_nothing_yet_or_long_ago_is_described_too() -> None:
    for document in (documents.unseen_document("demo", "a"), documents.node_document(aged(leader_status(), 1000), now())):
        validator("Node", strict=True).validate(json.loads(json.dumps(document, default=str)))
