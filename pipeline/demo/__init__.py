"""The demo's input: annotated photographs and synthetic scenes."""
