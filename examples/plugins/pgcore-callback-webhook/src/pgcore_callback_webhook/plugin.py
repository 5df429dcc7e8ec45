"""Posts the role of a node to a URL, as JSON, after each start of its PostgreSQL and each change."""

import json
import urllib.request
from dataclasses import dataclass

from pgcore.plugin import CallbackEvent, ConfigSection, hookimpl, option

PGCORE_API_LEVEL = 1
TOLD = ("on_start", "on_role_change")


@dataclass(frozen=True, slots=True)
class Section:
    """Read by pgcore, so that a wrong value is refused with file, key and remedy."""

    url: str = option(doc="where changes of the role are posted")


@hookimpl
def pgcore_config_sections() -> list[ConfigSection]:
    """The section ``webhook``; a file that has it selects the plugin."""
    return [ConfigSection("webhook", Section)]


@hookimpl
def pgcore_callback(event: CallbackEvent) -> None:
    """Called in order, on a lane of its own; what it raises is logged and counted, and the cluster goes on."""
    section = event.sections.get("webhook")
    if event.action not in TOLD or section is None:
        return
    body = json.dumps({"scope": event.scope, "member": event.member, "role": str(event.role)}).encode()
    request = urllib.request.Request(section.url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=event.timeout):
        event.report("ok")
