"""Backends on the packages that first brought these models, for checkpoints in their own formats.

They are not the default: see the table in `stages/backends/README.md`.
"""
