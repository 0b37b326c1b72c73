"""Lifetimes: when a session ends by itself, idle or absolute, and when it is worth a write to let it live longer."""

from dataclasses import dataclass

from dynamodb_sessions.clock import check_seconds
from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.stores.contract import Expiry, Record

BROWSER_SESSION_AGE = 14 * 24 * 60 * 60
"""Seconds a session is stored that lives, for the browser, until it closes."""

MAX_COOKIE_AGE = 400 * 24 * 60 * 60
"""Seconds after which browsers forget any cookie, whatever it asks for. Source: RFC 6265bis, "cookie-age-limit"."""

_TOUCHES_PER_LIFETIME = 10


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Lifetimes:
    """How long sessions live, in seconds. Raises ConfigurationError for anything but positive whole numbers.

    `max_age` is the idle timeout (None: the browser's session, 14 days in the store), `absolute_max_age` the
    absolute one, `touch_after` how much a session that is only read must gain before its expiry is written, and a
    cookie before it is set again. `extends`: whether a session that is used lives longer; if not, only one that is new,
    bound or given a lifetime gets one.
    """

    max_age: int | None
    absolute_max_age: int | None = None
    touch_after: int | None = None
    extends: bool = True

    def __post_init__(self) -> None:
        check_seconds("max_age", self.max_age)
        check_seconds("absolute_max_age", self.absolute_max_age)
        check_seconds("touch_after", self.touch_after, minimum=0)
        if self.touch_after is not None and self.touch_after >= (self.max_age or BROWSER_SESSION_AGE):
            raise ConfigurationError(
                f"touch_after={self.touch_after} must be less than max_age, or sessions end in use"
            )

    def expires_at(self, now: int, *, created_at: int, own: int | None) -> int:
        """Return when a session used now expires; `own` is its own idle timeout, if it has one."""
        return self.expiry(now, created_at=created_at).at(own)

    def expiry(self, now: int, *, created_at: int) -> Expiry:
        """Return when a session used now expires, whatever its own idle timeout turns out to be."""
        ends_at = None if self.absolute_max_age is None else created_at + self.absolute_max_age
        return Expiry(now, self.max_age or BROWSER_SESSION_AGE, ends_at)

    def of_change(self, now: int, *, created_at: int, own: int | None, named: bool) -> tuple[int | None, Expiry | None]:
        """Return when a session that is changed now expires, as `Changes` has it; None, None: as it did before.

        `named`: its lifetime is among what is changed.
        """
        if not (self.extends or named):
            return None, None
        expiry = self.expiry(now, created_at=created_at)
        return expiry.at(own), expiry

    def is_over(self, record: Record, now: int) -> bool:
        """Whether the absolute timeout has passed, whatever the record says of itself."""
        return self.absolute_max_age is not None and record.created_at + self.absolute_max_age <= now

    def wants_touch(self, record: Record, expires_at: int) -> bool:
        """Whether a session that was only read gains enough to be worth a write."""
        return expires_at - record.expires_at >= self._step(record.max_age or self.max_age or BROWSER_SESSION_AGE)

    def _step(self, idle: int) -> int:
        """Return the seconds that a touch is to gain."""
        step = self.touch_after
        return -(-idle // _TOUCHES_PER_LIFETIME) if step is None or step >= idle else step

    def is_due(self, record: Record, now: int) -> bool:
        """Whether a session is to be touched if it is used now."""
        idle = record.max_age or self.max_age or BROWSER_SESSION_AGE
        # The absolute timeout, which only shortens it, need not be asked of most.
        if now + idle - record.expires_at < self._step(idle) or not self.extends:
            return False
        return self.wants_touch(record, self.expires_at(now, created_at=record.created_at, own=record.max_age))

    def last_used(self, record: Record) -> int | None:
        """Return when a session was last used, to within a touch; None: its absolute lifetime hides it."""
        if self.absolute_max_age is not None and record.expires_at >= record.created_at + self.absolute_max_age:
            return None
        return max(record.created_at, record.expires_at - (record.max_age or self.max_age or BROWSER_SESSION_AGE))

    def cookie_expires_at(self, record: Record, now: int, *, extends: bool) -> int | None:
        """Return when the browser is to forget the cookie; None: when it closes.

        `extends`: this request lets the session live longer. Then the cookie counts from now, though the session may be
        touched later: the browser is not to forget the cookie of a session that still lives.
        """
        if self.max_age is None and record.max_age is None:
            return None
        until = record.expires_at
        if extends:
            until = self.expires_at(now, created_at=record.created_at, own=record.max_age)
        return min(until, now + MAX_COOKIE_AGE)

    def is_cookie_due(self, record: Record, told: int | None, now: int, *, extends: bool) -> bool:
        """Whether the browser is to be told another expiry of the cookie than it was; None: when it closes.

        It is the expiry that counts, not the time since then: another request, another process or another configuration
        may have changed the lifetime, and a clock that goes wrong may have told of an expiry that is far off.
        """
        idle = record.max_age or self.max_age
        if idle is None or told is None:
            return idle is not None or told is not None
        idle = min(idle, MAX_COOKIE_AGE)
        step = self._step(idle)
        # The absolute timeout, which only shortens it, need not be asked of most.
        if extends and -step < now + idle - told < step:
            return False
        wanted = self.cookie_expires_at(record, now, extends=extends)
        return wanted is not None and abs(wanted - told) >= step
