"""Taggers, detectors and segmenters."""
