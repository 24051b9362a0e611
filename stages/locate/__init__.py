"""What an image shows and where: tags, boxes, masks.

Everything known in an image, annotated or detected, is one record (`schemas.known.Known`); the
rules on which of it is worth changing are in `regions.py`.
"""
