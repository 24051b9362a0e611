"""Preference training on the emitted pairs. Reads the shards; imports only `schemas`."""
