"""What the agent gets: an endpoint to leave notes and read them, and a metric that counts them."""

from collections import deque

from pgcore.plugin import RestRequest, RestResponse, Route, Sample, Status, hookimpl

PGCORE_API_LEVEL = 1
NOTES: deque[str] = deque(maxlen=100)
"""The last ones; they end with the agent."""


def read(request: RestRequest, status: Status) -> RestResponse:
    """Open to everybody."""
    return RestResponse({"member": status.name, "leader": status.is_leader, "notes": list(NOTES)})


def leave(request: RestRequest, status: Status) -> RestResponse:
    """Only for whom the node lets in; handlers run beside one another, and a deque may be appended to by several."""
    text = request.body.get("text") if isinstance(request.body, dict) else None
    if not isinstance(text, str):
        return RestResponse("a note is an object with a text", 422, "text/plain")
    NOTES.append(text)
    return RestResponse({"notes": len(NOTES)}, 201)


@hookimpl
def pgcore_rest_routes() -> list[Route]:
    """Asked for once, at start."""
    note = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return [
        Route("GET", "/notes", read, unsafe=False, summary="The notes left on this node."),
        Route("POST", "/notes", leave, summary="Leave a note.", description={
            "requestBody": {"required": True, "content": {"application/json": {"schema": note}}},
            "responses": {"201": {"description": "Left."}, "422": {"description": "It has no text."}}}),
    ]


@hookimpl
def pgcore_metrics(status: Status) -> list[Sample]:
    """Asked for with every scrape."""
    return [Sample("notes", len(NOTES), help="Notes left on this node.", labels={"role": status.node.role})]
