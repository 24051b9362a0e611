"""What learns from it: reads the emitted shards and nothing else of the pipeline."""
