"""Diffusion editors and painters."""
