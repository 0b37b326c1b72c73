"""Environment variables to settings, read with Starlette's Config. Only the region is the transport's to find."""

import logging
from collections.abc import Sequence

from starlette.datastructures import Secret

from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError

logger = logging.getLogger("dynamodb_sessions")

MIN_KEY_SIZE = 32
"""Bytes below which a key draws a warning: what 256 bits take at the least."""

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


def table_name() -> str:
    """Return the name of the table."""
    return _environment("SESSION_TABLE_NAME", default="sessions")


def endpoint_url() -> str | None:
    """Return DynamoDB's address if it is not AWS."""
    return _environment("DYNAMODB_ENDPOINT_URL", default="") or None


def secret_keys(secret_key: str | Secret | Sequence[str | Secret] | None) -> list[str]:
    """Return the signing keys, newest first: the given ones, or the environment's.

    Raises ConfigurationError if there is none, or an empty one.
    """
    if secret_key is None:
        newest = _environment("SESSION_SECRET_KEY", default="")
        if not newest:
            raise ConfigurationError(f"no secret_key is given and SESSION_SECRET_KEY is not set: {_HINT}")
        older = _environment("SESSION_SECRET_KEY_FALLBACKS", default="").split(",")
        keys = [newest, *(key.strip() for key in older if key.strip())]
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
