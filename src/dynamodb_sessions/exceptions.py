"""Everything that can go wrong, by name. No message here ever carries a session id, a cookie or a key."""

from collections.abc import Sequence


class SessionError(Exception):
    """The base of every error this package raises."""


class StoreUnavailable(SessionError):
    """Raised if the store did not answer, or not in time. The session may well exist: try again later."""


class SessionTooLarge(SessionError):
    """Raised if a session would not fit into one DynamoDB item. The stored session is intact.

    `size` and `limit` are bytes as DynamoDB counts them; `keys` are the session's largest keys, largest first. Of what
    is no session, `what` says what is too large, and `keys` has its name.
    """

    def __init__(self, size: int, limit: int, keys: Sequence[str], *, what: str | None = None) -> None:
        self.size = size
        self.limit = limit
        self.keys: tuple[str, ...] = tuple(keys)
        largest = ", ".join(ascii(key) for key in self.keys)
        too_large = f"{what or 'the session'} is {size:,} bytes, the limit is {limit:,}"
        super().__init__(too_large if what else f"{too_large}; its largest keys: {largest}")


class UnserializableValue(SessionError, TypeError):
    """Raised if a key or value is nothing the serializer carries, JSON by default. Nothing was sent.

    `key` is the top-level key. Of what is no session's, `what` says what it is that cannot be stored.
    """

    def __init__(self, key: object, reason: str, *, what: str | None = None) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{what or f'session[{key!a}]'} cannot be stored: {reason}")


class ConfigurationError(SessionError, ValueError):
    """Raised if a setting, the environment or the table is wrong. Waiting will not help; the message says what will."""

    is_outage = False
    """Whether the store cannot be used as things are, with expired credentials say: a request is answered 503."""


def outage(message: str) -> ConfigurationError:
    """Return a ConfigurationError that says why a store cannot be used."""
    error = ConfigurationError(message)
    error.is_outage = True
    return error


class CorruptRecord(SessionError):
    """Raised if what is stored under an id is not a session. It is left as it is."""
