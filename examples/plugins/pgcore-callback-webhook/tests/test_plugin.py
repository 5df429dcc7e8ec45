"""What is posted, and what is not."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pgcore.plugin import CallbackEvent, Role
from pgcore_callback_webhook.plugin import Section, pgcore_callback


class Inbox(HTTPServer):
    """Keeps what is posted."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted = []
        self.url = f"http://127.0.0.1:{self.server_port}/roles"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def inbox():
    server = Inbox()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def told(action, url, results):
    return CallbackEvent(action, Role.PRIMARY, "main", "a", timeout=5, report=results.append, sections={"webhook": Section(url)})


@pytest.mark.parametrize("action", ["on_start", "on_role_change"])
def test_the_role_is_posted(inbox, action):
    results = []
    pgcore_callback(told(action, inbox.url, results))
    assert inbox.posted == [{"scope": "main", "member": "a", "role": "primary"}] and results == ["ok"]


def test_a_reload_is_not(inbox):
    pgcore_callback(told("on_reload", inbox.url, []))
    assert inbox.posted == []


def test_a_receiver_that_is_away_is_an_error_for_the_log():
    with pytest.raises(OSError, match="refused"):
        pgcore_callback(told("on_role_change", "http://127.0.0.1:1/", []))
