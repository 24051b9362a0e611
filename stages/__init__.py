"""What is done: one file a stage, `backends/` one file a model family. No Ray."""
