"""From shards to batches: rows, order, token trees, prefetching."""
