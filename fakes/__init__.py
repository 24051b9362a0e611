"""Tiny models, chat servers and painted scenes that tests and benchmarks share."""
