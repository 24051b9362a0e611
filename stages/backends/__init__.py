"""The models behind the stages: in rooms as the stages are.

Only recipes name them.
"""
