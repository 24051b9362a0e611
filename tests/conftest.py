from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A run without an address joins a cluster that somebody has started on this machine. Tests, and the
# processes they start, have their own.
os.environ.setdefault("RAY_ADDRESS", "local")

# How long an example takes is the machine's matter; a test that hangs has its time limit.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
