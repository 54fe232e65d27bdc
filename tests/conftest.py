"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# a busy machine is no failure of the code: time is compared in benchmarks, never here
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
