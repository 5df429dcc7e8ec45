"""What holds for every test: how fast hypothesis gets its examples says something of the machine and nothing of the code."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
