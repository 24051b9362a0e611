"""The run directory: `RunFolder` owns every file of it, `Lease` keeps a second driver out.

`info.py` is `run.json`, `audit.py` what the parts account for, `card.py` the dataset card. Callers
hold a `RunFolder`; workers see the plain `Folder`, because they must not import the pipeline.
"""

from pipeline.run_folder.audit import Audit
from pipeline.run_folder.info import Identity, RunInfo
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.run_folder import RUN_FILE, RunFolder

__all__ = ["RUN_FILE", "Audit", "Identity", "Lease", "RunFolder", "RunInfo"]
