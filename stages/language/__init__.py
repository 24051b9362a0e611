"""Stages that talk to chat models, and what they share.

`stage.py` is their base, `chat.py` the protocol of the models, `prompting.py` reads the files of
`prompts/`, `votes.py` checks a candidate by votes. Models are in `stages/backends/chat/`.
"""
