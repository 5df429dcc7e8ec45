"""The OpenAPI document of an agent: one operation for every line of the table of routes, said in ``operations`` and ``schemas``.

Imported when somebody asks for ``/openapi.json``; the answer is made once, as routes do not change while an agent runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pgcore import PATRONI_VERSION, __version__
from pgcore.model.basics import Json
from pgcore.registry import OwnedRoute
from pgcore.rest import operations, schemas
from pgcore.rest.routes import CHECK_PATHS, CHECK_WORDS, DOCUMENTS, PROBES, REPORT, SAFE_METHODS, Routes

ABOUT = f"""The REST API of a pgcore agent, which speaks Patroni {PATRONI_VERSION}'s.

Every answer is HTTP/1.0 on a connection that closes after it. A path means its first segment: `/config/x` is `/config`.
A `GET` that no other path here describes, and every `HEAD` and `OPTIONS`, is a health check: the first of
{", ".join(CHECK_WORDS)}
that the path contains decides. A path without any of them, or an unknown one, is answered 503, never 404. Every other method on
an unknown path is answered 501. What is no HTTP is answered 400, a request of which no end comes within 10 s 408.

Operations with `security` need what `restapi` in the agent's configuration asks for: an address on the `allowlist`, a verified
client certificate, user name and password. Without authentication and certificates they are answered only where every address
is loopback."""


def described(routes: Routes) -> str:
    """The document of an agent with these routes, as JSON."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "pgcore", "version": __version__, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "tags": [{"name": name, "description": text} for name, text in operations.TAGS.items()],
        "paths": {},
        "components": {
            "schemas": schemas.SCHEMAS,
            "securitySchemes": {"password": {"type": "http", "scheme": "basic", "description": "restapi.authentication"}},
        },
    }
    for method, path, operation in _all(routes):
        document["paths"].setdefault(path, {})[method.lower()] = operation
    return json.dumps(document)


def _all(routes: Routes) -> Iterator[tuple[str, str, Json]]:
    checks = [path for path in CHECK_PATHS if path != "/"] + [f"/{word}" for word in CHECK_WORDS]
    for path in ("/", *sorted(checks)):
        yield from ((method, path, operations.check(method, path)) for method in SAFE_METHODS)
    for word in sorted({*PROBES, *DOCUMENTS}):
        yield "GET", f"/{word}", operations.OPERATIONS["GET", word]
    for word, methods in sorted(routes.unsafe.items()):
        known = word if word in operations.WORDS else REPORT
        for method in methods:
            yield method, f"/{word}", operations.guarded(operations.OPERATIONS[method, known], method, word)
    for (method, path), owned in sorted(routes.plugins.items()):
        yield method, path, _of_plugin(owned)
    yield from ((method, "/{path}", operations.any_other(method, _first_segments(routes))) for method in SAFE_METHODS)


def _first_segments(routes: Routes) -> list[str]:
    """What ``/{path}`` does not stand for."""
    return sorted({*PROBES, *DOCUMENTS, *(path[1:] for path in CHECK_PATHS), *CHECK_WORDS,
                   *(path[1:] for method, path in routes.plugins if method == "GET")})


def _of_plugin(owned: OwnedRoute) -> Json:
    route = owned.route
    own: Json = {
        "tags": ["plugins"],
        "summary": route.summary or f"An endpoint of the plugin {owned.plugin}",
        "operationId": f"{owned.plugin}: {route.method} {route.path}",
        "responses": {"default": {"description": f"What the plugin {owned.plugin} answers"}},
        **route.description,
    }
    own["responses"] = own["responses"] | operations.PLUGIN_TROUBLE
    return operations.guarded(own, route.method, route.path) if route.unsafe else own
