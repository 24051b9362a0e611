"""The command line over both halves: what makes pairs, and what trains on them (`trainer`).

One of the two places that may import both; the other is the online loop. Nothing imports it but
the two doors, `python -m pipeline` (which is `nearmiss`) and `python -m trainer`.
"""
