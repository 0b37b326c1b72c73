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
    listed = _environment("SESSION_SECRET_KEY_FALLBACKS", default="").split(",")
    older = [key.strip() for key in listed if key.strip()]
    if not all(map(_is_line, older)):
        raise ConfigurationError("a key in SESSION_SECRET_KEY_FALLBACKS has a line break: commas separate keys there")
    return [newest, *older]


def _is_line(text: str) -> bool:
    """Whether it has no line break, of any kind."""
    return text.splitlines() == [text]
