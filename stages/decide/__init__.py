"""Measuring candidates and choosing among them: embeddings, thresholds, checks, spans."""
