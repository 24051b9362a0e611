"""The run directory: what was asked for, which shards are done, who holds it, its card."""
