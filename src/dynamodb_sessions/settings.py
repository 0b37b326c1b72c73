"""Environment variables to settings, read with Starlette's Config. Only the region is the transport's to find."""

import base64
import logging
import re
from collections.abc import Sequence

from starlette.datastructures import Secret

from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

MIN_KEY_SIZE = 32
"""Bytes below which a key draws a warning: what 256 bits take at the least."""

EncryptionKey = str | Secret | Sequence[str | Secret | None] | None
"""One key, or several, newest first; None in place of the newest: nothing is encrypted."""

_ENCRYPTION_KEY = re.compile(r"[A-Za-z0-9_-]{43}=?")
"""32 bytes in URL-safe base64. Source: RFC 4648, 5."""

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")
_HINT = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def _environment(name: str, *, default: str) -> str:
    from starlette.config import Config  # noqa: PLC0415 - of no use where everything is given

    value: str = Config()(name, default=default)
    return value


def use_dynamodb() -> bool:
    """Whether USE_DYNAMODB_SESSIONS says so. Raises ConfigurationError if it says neither yes nor no."""
    value = _environment("USE_DYNAMODB_SESSIONS", default="").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigurationError(f"USE_DYNAMODB_SESSIONS={value!r} must be one of {', '.join(_TRUE + _FALSE[:-1])}")


def table_name(given: str | None = None) -> str:
    """Return the name of the table of sessions: the given one, or the environment's."""
    return _environment("SESSION_TABLE_NAME", default="sessions") if given is None else given


def endpoint_url(given: str | None = None) -> str | None:
    """Return DynamoDB's address: the given one, or the environment's. None: AWS, or wherever boto3 is told to look."""
    return (_environment("DYNAMODB_ENDPOINT_URL", default="") or None) if given is None else given


def secret_keys(secret_key: str | Secret | Sequence[str | Secret] | None) -> list[str]:
    """Return the signing keys, newest first: the given ones, or the environment's.

    Raises ConfigurationError if there is none, an empty one, or one in the environment that could not be retired there.
    """
    if secret_key is None:
        keys = _environments_keys()
    else:
        given = [secret_key] if isinstance(secret_key, str | Secret) else secret_key
        # Whatever else has a str(), "None" and the digits of a byte among them, would make a key anybody can guess.
        if not isinstance(given, list | tuple) or not all(isinstance(key, str | Secret) for key in given):
            raise ConfigurationError("secret_key must be a str, a Secret, or a list of them, newest first")
        keys = [str(key) for key in given]
    if not all(is_text(key) for key in keys):
        raise ConfigurationError(f"secret_key is not valid Unicode text: {_HINT}")
    if not keys or not all(key.strip() for key in keys):
        raise ConfigurationError(f"secret_key is empty: {_HINT}")
    if any(len(key.encode()) < MIN_KEY_SIZE for key in keys):
        logger.warning("a session secret key is shorter than %d bytes: %s", MIN_KEY_SIZE, _HINT)
    return keys


def _environments_keys() -> list[str]:
    newest = _environment("SESSION_SECRET_KEY", default="")
    if not newest:
        raise ConfigurationError(f"no secret_key is given and SESSION_SECRET_KEY is not set: {_HINT}")
    # Or it could not be listed among the older ones later: its parts would be keys there, and it would be none.
    if newest.strip() and ("," in newest or newest != newest.strip() or not _is_line(newest)):
        raise ConfigurationError(
            "SESSION_SECRET_KEY has a comma, a line break or blanks around it, so it could not be retired through "
            f"SESSION_SECRET_KEY_FALLBACKS: {_HINT}; or give secret_key=[newest, older], where a key may have any text"
        )
    older = _listed(_environment("SESSION_SECRET_KEY_FALLBACKS", default=""))
    if not all(map(_is_line, older)):
        raise ConfigurationError("a key in SESSION_SECRET_KEY_FALLBACKS has a line break: commas separate keys there")
    return [newest, *older]


def encryption_keys(encryption_key: EncryptionKey = None) -> list[bytes | None]:
    """Return the keys of 32 bytes that values are encrypted with, newest first: the given ones, or the environment's.

    None in place of the newest: nothing is encrypted. No keys: nor is anything decrypted. Raises ConfigurationError if
    one is not 32 bytes in URL-safe base64; it never shows it.
    """
    given: object = [encryption_key] if isinstance(encryption_key, str | Secret) else encryption_key
    if given is None:
        newest = _environment("SESSION_ENCRYPTION_KEY", default="")
        older = _listed(_environment("SESSION_ENCRYPTION_KEY_FALLBACKS", default=""))
        if not newest and not older:
            return []
        given = [newest or None, *older]
    if not isinstance(given, list | tuple) or not any(given):
        raise ConfigurationError(f"encryption_key is empty, or no str, Secret or list of them, newest first; {_HINT}")
    keys = [None if key is None and not place else _encryption_key(key) for place, key in enumerate(given)]
    if keys[0] is None:
        logger.warning(
            "encryption keys are given, but none that encrypts: stored values are decrypted, new ones are not encrypted"
        )
    return keys


def _encryption_key(given: object) -> bytes:
    key = str(given) if isinstance(given, str | Secret) else ""
    if not _ENCRYPTION_KEY.fullmatch(key):
        raise ConfigurationError(
            "an encryption key (encryption_key, SESSION_ENCRYPTION_KEY or SESSION_ENCRYPTION_KEY_FALLBACKS) is not 32 "
            f"bytes in URL-safe base64, which are 43 characters, or 44 with padding; {_HINT}"
        )
    return base64.urlsafe_b64decode(f"{key:=<44}")


def _listed(keys: str) -> list[str]:
    """Return what commas separate, without blanks around it."""
    return [key.strip() for key in keys.split(",") if key.strip()]


def _is_line(text: str) -> bool:
    """Whether it has no line break, of any kind."""
    return text.splitlines() == [text]
