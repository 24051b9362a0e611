"""Measures candidates and chooses among them.

Embeddings and their thresholds, the check of where pixels changed, the choice within a seed, and
the spans in which answers differ.
"""
