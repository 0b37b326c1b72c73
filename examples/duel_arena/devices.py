"""Where a player is signed in: every session bound to the player's name is a device.

The page knows a device by a fingerprint of its session id, which itself never reaches a page. There is no password:
this is a game, and whoever says that they are Ada sees Ada's devices, and can end them.
"""

import hashlib
import time
from typing import Any

from dynamodb_sessions import Record, Session

_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
"""What a user agent says, and whose it is. Most browsers also claim to be those further down."""

_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


def fingerprint(session_id: str) -> str:
    """Return what a session is called where people can see it."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:8]


def browser_of(user_agent: str) -> str:
    """Return the browser and its system in words of ours. What it says of itself goes no further than this."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "Some browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return browser if system is None else f"{browser} on {system}"


async def all_of(session: Session, max_age: int) -> list[dict[str, Any]]:
    """Return this device, and after it the player's others, oldest first.

    An expiry lies `max_age` seconds after the last look at the session, or `touch_after` less than that.
    """
    now, info = int(time.time()), session.info
    others = [record async for record in info.store.list_owner(session["player"]) if record.id != info.id]
    # The index hears of a login a moment later: this device is here whatever it says.
    this = _shown(info.id, session, info.created_at or now, 0)
    return [this, *(_of(record, max(0, now - record.expires_at + max_age)) for record in others)]


async def end(session: Session, device: object) -> bool:
    """End the player's session that goes by this fingerprint. False if there is none."""
    async for record in session.info.store.list_owner(session["player"]):
        if fingerprint(record.id) == device:
            return await session.info.store.delete(record.id)
    return False


def _of(record: Record, idle: int) -> dict[str, Any]:
    return _shown(record.id, record.content(), record.created_at, idle)


def _shown(session_id: str, content: dict[str, Any], since: int, idle: int) -> dict[str, Any]:
    return {"id": fingerprint(session_id), "browser": content.get("browser"), "since": since, "idle": idle}
