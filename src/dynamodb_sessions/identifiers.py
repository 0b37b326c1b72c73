"""Session ids: how they are made, and the name a session has where an id must not be shown."""

import base64
import hashlib
import re

_RANDOM = re.compile(r"[A-Za-z0-9_-]{43}")
_HEAD = 35
"""How many characters of an id of a session in memory are random: 208 bits."""


def new_id() -> str:
    """Return 43 characters that carry 256 bits from the operating system: nothing to guess, nothing to collide."""
    import secrets  # noqa: PLC0415 - of no use to whoever only reads sessions

    return secrets.token_urlsafe(32)


def is_random(session_id: str) -> bool:
    """Whether an id is one of `new_id`, under which no other session is ever created."""
    return _RANDOM.fullmatch(session_id) is not None


def new_memory_id() -> str:
    """Return an id for a session that is kept in memory: such as `new_id` returns, and one can tell that it is one."""
    import secrets  # noqa: PLC0415 - as above

    head = secrets.token_urlsafe(26)
    return head + _mark(head)


def is_memory_id(session_id: str) -> bool:
    """Whether an id is one of `new_memory_id`. Of those of `new_id`, one in 2**48 looks like it."""
    return is_random(session_id) and session_id[_HEAD:] == _mark(session_id[:_HEAD])


def _mark(head: str) -> str:
    # Not a secret: who presents an id has it from us, as a cookie that we have signed.
    digest = hashlib.sha256(f"kept in memory: {head}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:6]).decode()


def new_born() -> str:
    """Return 12 characters that tell a session from every other that is stored under its id."""
    import secrets  # noqa: PLC0415 - as above

    return secrets.token_urlsafe(9)


def new_handle() -> str:
    """Return 16 hex digits that carry 64 random bits: a name of a login that may be shown, as its id may not."""
    import secrets  # noqa: PLC0415 - as above

    return secrets.token_hex(8)


def fingerprint(session_id: str) -> str:
    """Return the name a session has in logs: 8 hex digits of its id's SHA-256, of no use to anyone who reads them."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:8]
