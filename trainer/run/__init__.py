"""A training run: loop, checkpoints, metrics, its folder, Ray Train, merging."""
