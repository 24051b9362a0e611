"""The model that is trained, its reference, and the log-probs of both."""
