"""What was asked of a session by its verbs, `clear`, `regenerate` and `bind` for example, and is not stored yet."""

from dataclasses import dataclass, replace
from typing import NamedTuple


class Login(NamedTuple):
    """Whose session it is from now: what `bind` has named, and the random handle of this login."""

    owner: str
    handle: str
    label: str | None
    tenant: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Asked:
    """What is still to be done to a session. Never changed, only replaced: whoever holds one holds one moment of it.

    A commit takes a while, and the app may ask for more while it runs: a second task of a websocket, the thread of a
    sync endpoint. What the commit did must then be forgotten, and what was asked meanwhile must not, though it is the
    same verb. So every call has a number, which only grows, and each field holds the number of the call that last
    asked for it; 0: nobody did. A commit notes `count` before it decides. What it settles is what has a number up to
    that. Without the numbers a second `clear()`, made while the first is on its way to the table, would be lost.
    """

    count: int = 0
    """The number of the last call."""
    clear: int = 0
    rotate: int = 0
    bind: int = 0
    lifetime: int = 0
    proof: int = 0
    login: Login | None = None
    max_age: int | None = None
    """The seconds `set_max_age` has named, as `Changes` has them; 0: the middleware's again."""

    @property
    def is_pending(self) -> bool:
        """Whether anything is still to be done."""
        return bool(self.clear or self.rotate or self.bind or self.lifetime or self.proof)

    @property
    def wants_new_id(self) -> bool:
        """Whether `regenerate` or `bind` was called."""
        return bool(self.rotate or self.bind)

    def to_clear(self) -> "Asked":
        """Return this with `clear` asked for, which makes whatever was asked before pointless."""
        return Asked(count=self.count + 1, clear=self.count + 1)

    def to_rotate(self) -> "Asked":
        """Return this with a new id asked for."""
        return replace(self, count=self.count + 1, rotate=self.count + 1)

    def to_bind(self, login: Login, *, rotate: bool) -> "Asked":
        """Return this with a login asked for, and a new id with it."""
        return replace(self.to_prove(rotate=rotate), bind=self.count + 1, login=login)

    def to_prove(self, *, rotate: bool) -> "Asked":
        """Return this with a note asked for that the owner has just proved who they are, and a new id with it."""
        number = self.count + 1
        return replace(self, count=number, proof=number, rotate=number if rotate else self.rotate)

    def to_live(self, max_age: int) -> "Asked":
        """Return this with a lifetime asked for."""
        return replace(self, count=self.count + 1, lifetime=self.count + 1, max_age=max_age)

    def settled(self, number: int, *, ended: bool) -> "Asked":
        """Return what is still to be done once all calls up to this number are.

        `ended`: the session was ended. How long the next one is to live is then still to be settled.
        """
        lives_on = ended or self.lifetime > number
        return Asked(
            self.count,
            self.clear if self.clear > number else 0,
            self.rotate if self.rotate > number else 0,
            self.bind if self.bind > number else 0,
            self.lifetime if lives_on else 0,
            self.proof if self.proof > number else 0,
            self.login if self.bind > number else None,
            self.max_age if lives_on else None,
        )


NOTHING_ASKED = Asked()
