"""The labels of a member's pod: its role for Services and people, and that its data directory is being made (dcs-layout 9.2)."""

from __future__ import annotations

import json

from pgcore_dcs_kubernetes.section import KubernetesSection

MAKING = ("initializing new cluster", "running custom bootstrap script", "starting after custom bootstrap", "creating replica")
"""States of a member whose data directory is being made."""


def pod_labels(section: KubernetesSection, card: str, leads: bool) -> dict[str, str | None]:
    """The labels that a pod with this card must have; None for one it must not have."""
    try:
        told = json.loads(card)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    state, role = str(told.get("state") or ""), str(told.get("role") or "")
    value: str | None = None
    plain: str | None = None
    if leads:
        value = section.standby_leader_label_value if role == "standby_leader" else section.leader_label_value
        plain = "primary"
    elif state == "running" and role != "primary":
        value = section.follower_label_value if role == "replica" else role
        plain = role
    labels: dict[str, str | None] = {name: text if state in MAKING else None for name, text in section.bootstrap_labels.items()}
    if section.tmp_role_label:
        labels[section.tmp_role_label] = plain or None
    labels[section.role_label] = value or None
    return labels
