"""Commands that read and change nothing: plan, doctor, models, status, show.

One module a command; each returns the text that the command prints. `doctor` and `plan` look at
the machine and the cluster, `status` and `show` at a run directory.
"""
