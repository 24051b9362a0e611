"""Runs chains of stages over shards, in a Ray actor or a plain process.

`chain.py` runs a micro-batch, `worker.py` a shard, `actor.py` is the worker on Ray; `guard.py`
finds rows that kill or hang their process. Only `actor.py` imports Ray.
"""
