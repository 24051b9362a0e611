"""Embedders and image-text scorers."""
