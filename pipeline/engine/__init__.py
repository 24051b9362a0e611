"""Runs shards: placements, the local engine and the one on Ray, the supervisor of a Ray stream.

`choice.py` picks the engine; `progress.py` shows how it goes. Nothing here knows recipes or the
run directory: an engine is given chains, a placement and shard numbers.
"""
