"""Tiny models, servers, pairs and painted scenes that tests and benchmarks share."""
