"""Turn: messages that are added together, as the items that are stored of them. It makes no calls."""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from dynamodb_sessions.agents import parts
from dynamodb_sessions.agents.conversation_head import DAY
from dynamodb_sessions.agents.parts import Packed, PartsFormat
from dynamodb_sessions.agents.reading import CREATED_AT, MESSAGE, name_of
from dynamodb_sessions.codec import encode_item
from dynamodb_sessions.exceptions import SessionTooLarge, UnserializableValue
from dynamodb_sessions.stores import item_format, table_schema

TOKEN_SECONDS = 30 * DAY
"""For how long it is known that a turn was stored under a token."""

FIRST = "first"
"""In a token's item: the position of the first message that was stored under it."""

STEPS = "steps"
"""In a token's item: how many positions each step of its turn takes."""

CONTENT = "content"
"""In a token's item, if its turn takes several steps: what no other turn has there. Nobody without the token can tell
by it what the turn says."""

_ITEM_SIZE = 256
"""Bytes of a message's item, but for its message and its conversation's id, at the most."""


class Begun(NamedTuple):
    """What is known of the turn that was stored under a token."""

    first: int
    """Its first position."""
    last_step: int
    """The number of its last step, from 0 on."""
    is_it: bool
    """Whether it is the turn that is added now."""


@dataclass(slots=True)
class Turn:
    """Messages that are added together. `first`, their first position, and `ttl` are set when they have positions."""

    session_id: str
    messages: list[Packed]
    now: int
    token: str | None
    content: str = ""
    """What no other turn of the same token has."""
    first: int = 0
    ttl: int | None = None

    @classmethod
    def of(cls, items: Sequence[Any], session_id: str, form: PartsFormat, *, now: int, token: str | None) -> Self:
        """Return the turn of these messages. Raises UnserializableValue or SessionTooLarge, naming the message."""
        item_size = len(session_id.encode()) + _ITEM_SIZE
        content = None if token is None else hmac.new(token.encode(), digestmod="sha256")
        packed = []
        for number, each in enumerate(items):
            name = f"items[{number}]"
            text = _text_of(name, each)
            packed.append(_packed(name, text, form, item_size))
            if content is not None:
                content.update(f"{len(text)} {text}".encode())
        return cls(session_id, packed, now, token, "" if content is None else content.hexdigest())

    @property
    def count(self) -> int:
        """How many positions it takes."""
        return sum(packed.count for packed in self.messages)

    @property
    def last(self) -> int:
        """Its last position."""
        return self.first + self.count - 1

    def steps(self) -> Iterator[slice]:
        """Yield which messages are stored by one transaction, and which by the next; always the same of the same."""
        item_size = len(self.session_id.encode()) + _ITEM_SIZE
        sizes = ((packed.count, packed.size + packed.count * item_size) for packed in self.messages)
        return parts.fit(sizes, max_items=parts.MAX_TRANSACTION_ITEMS - (self.token is not None))

    def begun(self, token_item: dict[str, Any]) -> Begun:
        """Return what a token's item says. Raises KeyError, TypeError, ValueError or AttributeError for any other."""
        shape: str = token_item[STEPS]["S"]
        # Where there is one step, all of whatever turn it is is stored.
        is_it = shape == self.shape and (CONTENT not in token_item or token_item[CONTENT]["S"] == self.content)
        return Begun(int(token_item[FIRST]["N"]), shape.count(" "), is_it)

    @property
    def shape(self) -> str:
        """How many positions each step takes: no other turn is stored at the positions of one that has another."""
        return " ".join(str(sum(packed.count for packed in self.messages[step])) for step in self.steps())

    def items(self, step: slice, form: PartsFormat) -> list[dict[str, Any]]:
        """Return the items of a step's messages, each at its position."""
        item = {CREATED_AT: item_format.number(self.now)}
        if self.ttl is not None:
            item[table_schema.TTL] = item_format.number(self.ttl)
        position, made = self.first + sum(packed.count for packed in self.messages[: step.start]), []
        for packed in self.messages[step]:
            for each in parts.split(item, MESSAGE, form.parts(packed, name_of(position))):
                made.append(self._key(position) | each)
                position += 1
        return made

    def token_item(self, step: int) -> dict[str, Any]:
        """Return the item that says that a step was stored."""
        shape = self.shape
        made = self._key(self.token_position(step)) | {
            FIRST: item_format.number(self.first),
            STEPS: {"S": shape},
            table_schema.TTL: item_format.number(self.now + TOKEN_SECONDS),
        }
        return made | ({CONTENT: {"S": self.content}} if " " in shape else {})

    def token_position(self, step: int) -> int:
        """Return the position of that item. No reader of messages looks below 0."""
        digest = hashlib.sha256(f"{step}:{self.token}".encode()).digest()
        return -1 - int.from_bytes(digest[:15])  # DynamoDB's numbers have 38 digits: 120 bits have 37.

    def _key(self, position: int) -> dict[str, Any]:
        return {**item_format.key(self.session_id), table_schema.POSITION: item_format.number(position)}


def _what(name: str) -> str:
    return f"{name}, a message of a conversation,"


def _text_of(name: str, message: Any) -> str:
    """Return a message as JSON. `name` is what errors call it."""
    if hasattr(message, "model_dump"):
        message = message.model_dump(mode="json", exclude_unset=True)
    try:
        return encode_item(name, message)
    except UnserializableValue as error:
        raise UnserializableValue(name, error.reason, what=_what(name)) from None


def _packed(name: str, text: str, form: PartsFormat, item_size: int) -> Packed:
    """Return a message as it is stored. `name` is what errors call it, `item_size` what each item takes besides."""
    what = _what(name)
    size = len(text.encode())
    if size > parts.MAX_UNPACKED:
        raise SessionTooLarge(size, parts.MAX_UNPACKED, [name], what=f"{what} uncompressed")
    packed = form.pack(text)
    size = packed.size + packed.count * item_size
    if size > parts.MAX_TRANSACTION_SIZE:
        raise SessionTooLarge(size, parts.MAX_TRANSACTION_SIZE, [name], what=what)
    return packed
