"""The entry point ``aws``: hands each role to ``delivery``, which runs boto3 in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import CallbackEvent, ConfigSection, Deadline, hookimpl
from pgcore_callbacks_aws.delivery import Delivery
from pgcore_callbacks_aws.section import AwsSection

EVENTS = ("on_start", "on_stop", "on_role_change")
AT_END_S = 6.0
"""How long an agent that ends waits for its last tags; the agent itself waits 10 s for everything."""

_delivery = Delivery()


@hookimpl
def pgcore_config_sections() -> Iterable[ConfigSection]:
    """The section ``aws``."""
    return [ConfigSection("aws", AwsSection)]


@hookimpl
def pgcore_callback(event: CallbackEvent) -> None:
    """Note the role that is to be told. Never waits: a command that moves an address may be next on this lane."""
    if event.action in EVENTS:
        section = event.sections.get("aws", AwsSection())
        assert isinstance(section, AwsSection)
        _delivery.deliver(event, section)


@hookimpl
def pgcore_stopping() -> None:
    """Give the last role some time. No process outlives the agent: one that does would overwrite what the next agent tells."""
    _delivery.finish(Deadline.after(AT_END_S))
