"""What may stand as the address of a chat endpoint, which is logged and shown."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_address(url: str) -> None:
    """ValueError for what is no address, or holds a secret; neither is shown, both may be one."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port, half a bracket
        is_url = False
    if not is_url:
        raise ValueError(
            "base_url (or OPENAI_BASE_URL) is no address of an endpoint; write http://HOST:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise ValueError(
            f"the address of {parts.hostname} holds a user, a password or a query; it is logged, "
            "so name a variable with the key in api_key_env instead"
        )
