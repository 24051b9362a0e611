"""Running shards: placements, the local engine and the one on Ray, progress, what watches them."""
