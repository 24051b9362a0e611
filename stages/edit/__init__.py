"""Generators: each makes candidates, an original with its near miss.

Beside them stands what edits take: padding, registration, drift, blending, colour. Models that
paint are in `stages/backends/inpaint/` and `diffusion/`.
"""
