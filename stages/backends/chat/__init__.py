"""Chat models: an endpoint, vLLM or transformers in this process."""
