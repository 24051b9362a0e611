"""Recipes: which stages, in which order, with which backends and settings."""
