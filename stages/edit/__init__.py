"""Generators: each makes candidates, an original with its near miss.

Helpers for edits stand beside them: padding, registration, drift, blending, colour. Models that
paint are in `stages/backends/inpaint/` and `diffusion/`.
"""
