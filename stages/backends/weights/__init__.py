"""Checkpoints, devices and image tensors: what every torch backend needs."""
