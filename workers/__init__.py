"""Who runs it: the Ray actor around a chain of stages."""
