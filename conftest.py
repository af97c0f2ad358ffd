"""For every suite: how many examples hypothesis tries, short in `make test` and long in `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_NOT_OURS_TO_JUDGE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]  # shared and noisy machines

settings.register_profile("short", max_examples=50, deadline=None, suppress_health_check=_NOT_OURS_TO_JUDGE)
settings.register_profile("long", max_examples=2_000, deadline=None, suppress_health_check=_NOT_OURS_TO_JUDGE)
settings.load_profile("short")
