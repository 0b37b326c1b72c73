"""Session ids: how they are made, and the name a session has where an id must not be shown."""

import hashlib


def new_id() -> str:
    """Return 43 characters that carry 256 bits from the operating system: nothing to guess, nothing to collide."""
    import secrets  # noqa: PLC0415 - of no use to whoever only reads sessions

    return secrets.token_urlsafe(32)


def fingerprint(session_id: str) -> str:
    """Return the name a session has in logs: 8 hex digits of its id's SHA-256, of no use to anyone who reads them."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:8]
