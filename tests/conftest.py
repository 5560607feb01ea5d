"""What every test has: Hypothesis without deadlines (two cores are shared) and without files left in the checkout."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("stentor", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stentor")
