"""Stages that ask language models, the protocol they ask by, and their prompts."""
