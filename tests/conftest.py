from __future__ import annotations

import os

# A run without an address joins a cluster that somebody has started on this machine. Tests, and the
# processes they start, have their own.
os.environ.setdefault("RAY_ADDRESS", "local")
