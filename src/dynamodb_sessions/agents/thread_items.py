"""The items of a thread of LangGraph's, and what they say. It makes no calls.

A thread is one partition of a table of conversations: `langgraph:` and the thread's id. Its positions are numbers of 38
digits, which DynamoDB keeps exactly: four of the checkpoint's namespace (0 is the root's), 25 of the first 80 bits of
the checkpoint's id, which sort as the ids do, and nine of what belongs to that checkpoint:

- 0: the checkpoint. `id` (S); `ns` (S) unless it is the root's; `parent` (S) if it has one; `body` is what it says;
- 1 to 99,999,999: what its tasks wrote. Each attribute `w:TASK:NUMBER` is one write;
- from 100,000,000 on: parts of what is too large for the two above, in attributes `p:TAG:NUMBER`. What they are parts
  of is stored after them, and has their tag: so it is there as a whole, or not at all.

So one Query, downwards, reads checkpoints from the newest on, each after all that belongs to it.

Any of them, and the head, may have `void` (SS), which is rare: attempts to write it whose outcome was once unknown.
None of these lands late. Where such an item is deleted, a tombstone stays until no attempt can be under way any more:
its key, `ns`, `void` and `ttl`, and nothing else.

`body` has frames: `c`, the checkpoint without its channels' values; `m`, its metadata; `v:CHANNEL`, a value that is new
with this checkpoint; `a:CHANNEL`, which checkpoint has the value that this one has not changed. A checkpoint that was
removed, but has what others need, stays without `c` and `m`: nobody finds it.

Position 0 of the partition is the thread's head, if it has an owner or a lifetime: see `thread_head.py`. `expires_at`
(N) is until when an item lives by its own, `ttl` (N) when DynamoDB removes it. A checkpoint of a run has `owner` and
`created_at` too, so that the owners' index finds it by its run.
"""

import hashlib
import secrets
import struct
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynamodb_sessions.agents.parts import PartsFormat
from dynamodb_sessions.exceptions import CorruptRecord, SessionTooLarge
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.value_format import ValueFormat

PREFIX = "langgraph:"
MAX_THREAD_ID_SIZE = 2048 - len(PREFIX)
"""Bytes. Source: DynamoDB's limit of a partition key."""

HEAD = 0
VOID = "void"
MAX_POSITION = 10**38 - 1
MAX_UNPACKED = 256 * 1024 * 1024
"""Bytes that one write may have before it is compressed, or a checkpoint with all values that are new with it."""

_SUBS = 10**9
_FIRST_PART = 10**8
_NAMESPACES = 10**34
_ID_BITS = 48
"""How many bits of an id are not in a position: the random ones of a UUID of version 6."""

_WRITES_TOGETHER = 10
"""How many writes of one task are in one item."""

_INLINE_WRITE = 32 * 1024
"""Bytes of a write that are stored with the task's other ones: ten of them fit into an item."""

_KEY = (table_schema.KEY, table_schema.POSITION)
_TOMBSTONE = {*_KEY, "ns", VOID, table_schema.TTL}
_OPTIONAL = ("ns", "parent", "chained", "owner", "created_at", "expires_at", table_schema.TTL)
"""What a checkpoint's item need not have."""

_COMPRESS_OVER = 128
"""Bytes. Much of a checkpoint is names and versions, each of them several times."""

Attribute = dict[str, Any]
Typed = tuple[str, bytes]
"""What LangGraph's serializers make of a value: the type's name, and bytes."""

Place = tuple[str, int]
"""The namespace and the order of a checkpoint."""


def partition_of(thread_id: str) -> str:
    return PREFIX + thread_id


def is_thread(partition: str) -> bool:
    """Whether a partition is a thread, and not a conversation."""
    return partition.startswith(PREFIX)


def thread_of(partition: str) -> str:
    """Return the id of the thread that a partition is."""
    return partition[len(PREFIX) :]


def run_owner(run_id: str) -> str:
    """Return the name under which the owners' index has the checkpoints of a run."""
    return f"langgraph-run:{hashlib.sha256(run_id.encode()).hexdigest()}"


def order_of(checkpoint_id: str) -> int:
    """Return a number that sorts as the ids of checkpoints do. Raises ValueError if it is no UUID's text."""
    made = uuid.UUID(checkpoint_id)
    if str(made) != checkpoint_id or not made.int >> _ID_BITS:
        raise ValueError("not the text of a UUID")
    return made.int >> _ID_BITS


def position_of(ns: str, order: int, sub: int = 0) -> int:
    return _base(ns) + order * _SUBS + sub


def span_of(ns: str | None, order: int | None = None) -> tuple[int, int]:
    """Return the first and the last position of a checkpoint, of a namespace, or of all of them."""
    if ns is None:
        return HEAD + 1, MAX_POSITION
    if order is None:
        return _base(ns) + 1, _base(ns) + _NAMESPACES - 1
    return position_of(ns, order), position_of(ns, order, _SUBS - 1)


def _base(ns: str) -> int:
    # Two namespaces may share a number: the items say whose they are.
    return _NAMESPACES * (1 + _digest(ns) % 9998) if ns else 0


def _digest(*of: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(of).encode()).digest()[:8])


def key(partition: str, position: int) -> dict[str, Any]:
    return {**item_format.key(partition), table_schema.POSITION: item_format.number(position)}


def position_in(item: Mapping[str, Any]) -> int:
    return int(item[table_schema.POSITION]["N"])


def place_of(item: Mapping[str, Any]) -> Place:
    """Return the namespace and the order of the checkpoint that an item belongs to."""
    return item["ns"]["S"] if "ns" in item else "", position_in(item) % _NAMESPACES // _SUBS


def key_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in _KEY}


def tombstone(item: Mapping[str, Any], until: int) -> dict[str, Any]:
    """Return what stays in an item's place until then, in epoch seconds, and refuses the attempts that are void."""
    kept = {name: item[name] for name in ("ns", VOID) if name in item}
    return {**key_of(item), **kept, table_schema.TTL: item_format.number(until)}


def is_tombstone(item: Mapping[str, Any]) -> bool:
    """Whether an item is there only for what might still land in its place."""
    return VOID in item and not item.keys() - _TOMBSTONE


class Write(NamedTuple):
    """One write of a task's. They sort as LangGraph applies them."""

    task_path: str
    task_id: str
    number: int
    channel: str
    value: Typed

    @property
    def name(self) -> str:
        """The name of the attribute that has it."""
        return f"w:{self.task_id}:{self.number}"


@dataclass(slots=True)
class Group:
    """All the items of one checkpoint that were read."""

    ns: str
    order: int
    items: list[dict[str, Any]] = field(repr=False)

    @property
    def place(self) -> Place:
        return self.ns, self.order

    @property
    def own(self) -> dict[str, Any] | None:
        """The checkpoint's own item; None: only what belongs to it was read, or stored."""
        return next((item for item in self.items if not position_in(item) % _SUBS), None)

    def others(self) -> list[dict[str, Any]]:
        """Return all but the checkpoint's own item."""
        return [item for item in self.items if position_in(item) % _SUBS]

    def parts_of_body(self) -> list[dict[str, Any]]:
        """Return what has parts of the checkpoint's body, and nothing else."""
        held = {} if self.own is None else self.own["body"].get("M", {})
        prefix = f"p:{held['tag']['S']}:" if held else "-"
        parts = [item for item in self.others() if any(name.startswith(prefix) for name in item)]
        return [item for item in parts if all(name.startswith(prefix) for name in item if name.startswith("p:"))]


def grouped(items: Iterable[dict[str, Any]]) -> Iterator[Group]:
    """Put together what belongs to the same checkpoint."""
    groups: dict[Place, Group] = {}
    for item in items:
        if not is_tombstone(item):
            place = place_of(item)
            groups.setdefault(place, Group(*place, [])).items.append(item)
    yield from groups.values()


@dataclass(slots=True)
class Saved:
    """A checkpoint as it is stored, its values still serialized."""

    ns: str
    order: int
    id: str
    parent: str | None
    chained: str | None
    """The checkpoint before it, removed but for what is needed to rebuild this one's channels."""
    frames: dict[str, Typed] = field(repr=False)
    expires_at: int | None = None
    run_owner: str | None = None
    created_at: int | None = None

    @property
    def place(self) -> Place:
        return self.ns, self.order

    @property
    def is_removed(self) -> bool:
        """Whether it is only there for what others need of it."""
        return "c" not in self.frames

    @property
    def before(self) -> str | None:
        """The checkpoint before it, whoever may find it."""
        return self.parent or self.chained

    def values(self) -> dict[str, Typed]:
        """Return the values that it has itself, by channel."""
        return {name[2:]: value for name, value in self.frames.items() if name.startswith("v:")}

    def elsewhere(self) -> dict[str, int]:
        """Return by channel the order of the checkpoint that has the value."""
        return {name[2:]: int.from_bytes(value) for name, (_, value) in self.frames.items() if name.startswith("a:")}


def body_frames(
    checkpoint: Typed, metadata: Typed, values: Mapping[str, Typed], elsewhere: Mapping[str, int]
) -> dict[str, Typed]:
    return {"c": checkpoint, "m": metadata} | value_frames(values, elsewhere)


def value_frames(values: Mapping[str, Typed], elsewhere: Mapping[str, int]) -> dict[str, Typed]:
    return {f"v:{channel}": value for channel, value in values.items()} | {
        f"a:{channel}": ("", order.to_bytes(10)) for channel, order in elsewhere.items()
    }


class ThreadFormat:
    """Makes the items of one thread, and reads them."""

    __slots__ = ("_parts", "partition")

    def __init__(self, partition: str, values: ValueFormat) -> None:
        self.partition: str = partition
        self._parts = PartsFormat(partition, values, compress_over=_COMPRESS_OVER)

    def checkpoint(self, saved: Saved, lifetime: Mapping[str, Attribute]) -> list[dict[str, Any]]:
        """Return the items that hold a checkpoint: its own is the last one, to be stored after the others."""
        body, parts = self._pack(saved.frames, f"{saved.ns}\0{saved.id}", inline=None)
        item = {
            **key(self.partition, position_of(saved.ns, saved.order)),
            "id": {"S": saved.id},
            "body": body,
            **self._marks(saved.ns, lifetime),
        }
        item |= {
            name: {"S": text}
            for name, text in (("parent", saved.parent), ("chained", saved.chained), ("owner", saved.run_owner))
            if text is not None
        }
        if saved.created_at is not None:
            item["created_at"] = item_format.number(saved.created_at)
        return [*self._part_items(saved.ns, saved.order, parts, lifetime), item]

    def writes(
        self, ns: str, checkpoint_id: str, writes: Iterable[Write], lifetime: Mapping[str, Attribute]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the items of the parts, to be stored first, and those that the writes are to be merged into."""
        order = order_of(checkpoint_id)
        parts: list[dict[str, Any]] = []
        merged: dict[int, dict[str, Any]] = {}
        for write in writes:
            name = write.name
            frames = {f"v:{write.channel}": write.value, f"p:{write.task_path}": ("", b"")}
            held, more = self._pack(frames, f"{ns}\0{checkpoint_id}\0{name}", inline=_INLINE_WRITE)
            parts += self._part_items(ns, order, more, lifetime)
            # Of two tasks in the same item, each has attributes of its own.
            sub = 1 + _digest(write.task_id, str(write.number // _WRITES_TOGETHER)) % (_FIRST_PART - 1)
            own = key(self.partition, position_of(ns, order, sub)) | self._marks(ns, lifetime)
            merged.setdefault(sub, own)[name] = held
        return parts, [*merged.values()]

    def read(self, group: Group) -> Saved | None:
        """Return the checkpoint of a group; None: it is not there as a whole.

        Raises CorruptRecord if it cannot be read.
        """
        item = group.own
        if item is None:
            return None
        try:
            frames = self._unpack(item["body"], group, f"{group.ns}\0{item['id']['S']}")
            if frames is None:
                return None
            return Saved(
                group.ns,
                group.order,
                item["id"]["S"],
                _text(item, "parent"),
                _text(item, "chained"),
                frames,
                int(item["expires_at"]["N"]) if "expires_at" in item else None,
                _text(item, "owner"),
                int(item["created_at"]["N"]) if "created_at" in item else None,
            )
        except (KeyError, TypeError, ValueError, struct.error):
            raise CorruptRecord("a stored checkpoint is invalid") from None

    def read_writes(self, group: Group, checkpoint_id: str) -> list[Write]:
        """Return what the tasks of a checkpoint wrote, in the order that LangGraph applies it.

        A write that is not there as a whole was never acknowledged, and is left out.
        """
        found = []
        for item in group.items:
            for name, held in item.items():
                if not name.startswith("w:"):
                    continue
                try:
                    frames = self._unpack(held, group, f"{group.ns}\0{checkpoint_id}\0{name}")
                    if frames is None:
                        continue
                    (channel, value), (task_path, _) = frames.items()
                    task_id, _, number = name[2:].rpartition(":")
                    found.append(Write(task_path[2:], task_id, int(number), channel[2:], value))
                except (KeyError, TypeError, ValueError, struct.error):
                    raise CorruptRecord("a stored write of a checkpoint is invalid") from None
        return sorted(found, key=lambda write: write[:3])

    def _marks(self, ns: str, lifetime: Mapping[str, Attribute]) -> dict[str, Attribute]:
        return {**({"ns": {"S": ns}} if ns else {}), **lifetime}

    def _part_items(
        self, ns: str, order: int, parts: Mapping[str, Attribute], lifetime: Mapping[str, Attribute]
    ) -> list[dict[str, Any]]:
        # Where they are is chosen at random. If that is where others are, they are merged, and none is lost.
        return [
            key(self.partition, position_of(ns, order, _FIRST_PART + secrets.randbelow(_SUBS - _FIRST_PART)))
            | {name: part}
            | self._marks(ns, lifetime)
            for name, part in parts.items()
        ]

    def _pack(
        self, frames: Mapping[str, Typed], name: str, *, inline: int | None
    ) -> tuple[Attribute, dict[str, Attribute]]:
        """Return what holds the frames, and the parts that it refers to: none if it takes no more than `inline`.

        Raises SessionTooLarge if nobody could read it again.
        """
        joined = _join(frames)
        if len(joined) > MAX_UNPACKED:
            largest = max(frames, key=lambda frame: len(frames[frame][1]))[2:]
            what = f"{largest!a} of a thread, with what is stored with it,"
            raise SessionTooLarge(len(joined), MAX_UNPACKED, [largest], what=what)
        packed = self._parts.pack(joined)
        parts = self._parts.parts(packed, name)
        if len(parts) == 1 and (inline is None or packed.size <= inline):
            return parts[0], {}
        tag = secrets.token_hex(6)
        held = {"M": {"tag": {"S": tag}, "parts": item_format.number(len(parts))}}
        return held, {f"p:{tag}:{number}": part for number, part in enumerate(parts)}

    def _unpack(self, held: Attribute, group: Group, name: str) -> dict[str, Typed] | None:
        """Return the frames; None: a part is missing."""
        parts = [held]
        if "M" in held:
            tag, count = held["M"]["tag"]["S"], int(held["M"]["parts"]["N"])
            names = [f"p:{tag}:{number}" for number in range(count)]
            found = {part: item[part] for item in group.items for part in item if part.startswith(f"p:{tag}:")}
            if any(part not in found for part in names):
                return None
            parts = [found[part] for part in names]
        return dict(_split(self._parts.unpack(parts, name, max_size=MAX_UNPACKED)))


def storing(item: dict[str, Any]) -> dict[str, Any]:
    """Return the update that stores a checkpoint's item in place of what is there, but for what is void."""
    return _update(item, set(), _OPTIONAL)


def merging(item: dict[str, Any], *, replaced: Iterable[str] = ()) -> dict[str, Any]:
    """Return the update that merges an item's attributes into what is stored.

    An attribute that is there already stays, unless it is one of those that are to be replaced. A lifetime that is
    there, such as a tombstone's, is not left to what has none.
    """
    always = {*replaced, "ns", "expires_at", table_schema.TTL}
    return _update(item, item.keys() - always, ("expires_at", table_schema.TTL))


def _update(item: dict[str, Any], kept: Collection[str], optional: Iterable[str]) -> dict[str, Any]:
    """Return the update that sets attributes, or keeps those that are there, and removes optional ones if left out."""
    names = [name for name in item if name not in _KEY]
    removed = [name for name in optional if name not in names]
    sets = [
        f"#{number} = if_not_exists(#{number}, :{number})" if name in kept else f"#{number} = :{number}"
        for number, name in enumerate(names)
    ]
    removes = [f"#{number}" for number in range(len(names), len(names) + len(removed))]
    return {
        "Key": key_of(item),
        "UpdateExpression": f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else ""),
        "ExpressionAttributeNames": {f"#{number}": name for number, name in enumerate([*names, *removed])},
        "ExpressionAttributeValues": {f":{number}": item[name] for number, name in enumerate(names)},
    }


def attempted(update: dict[str, Any], attempt: str, void: Sequence[str]) -> dict[str, Any]:
    """Return an attempt to make an update: refused once it is void, and it makes the attempts before it void."""
    condition = f"{update['ConditionExpression']} AND " if "ConditionExpression" in update else ""
    values = {**update.get("ExpressionAttributeValues", {}), ":attempt": {"S": attempt}}
    if void:
        values[":void"] = {"SS": [*void]}
    return {
        **update,
        "UpdateExpression": update["UpdateExpression"] + (" ADD #void :void" if void else ""),
        "ConditionExpression": f"{condition}NOT contains(#void, :attempt)",
        "ExpressionAttributeNames": {**update["ExpressionAttributeNames"], "#void": VOID},
        "ExpressionAttributeValues": values,
    }


def unlinking(saved: Saved) -> dict[str, Any]:
    """Return the update that makes a stored checkpoint forget its parent, but for what is rebuilt from it."""
    if saved.chained is None:
        return {"UpdateExpression": "REMOVE #p", "ExpressionAttributeNames": {"#p": "parent"}}
    return {
        "UpdateExpression": "SET #c = :c REMOVE #p",
        "ExpressionAttributeNames": {"#p": "parent", "#c": "chained"},
        "ExpressionAttributeValues": {":c": {"S": saved.chained}},
    }


def _text(item: Mapping[str, Any], name: str) -> str | None:
    return item[name]["S"] if name in item else None


def _join(frames: Mapping[str, Typed]) -> bytes:
    """Return the frames as bytes: of each the lengths of its name, its type and its value, and then the three."""
    made = []
    for name, (kind, value) in frames.items():
        name_, kind_ = name.encode(), kind.encode()
        made += [struct.pack(">HBI", len(name_), len(kind_), len(value)), name_, kind_, value]
    return b"".join(made)


def _split(joined: bytes) -> Iterator[tuple[str, Typed]]:
    at = 0
    while at < len(joined):
        lengths = struct.unpack_from(">HBI", joined, at)
        at += 7
        name, kind, value = (
            joined[at + sum(lengths[:part]) : at + sum(lengths[: part + 1])] for part in range(len(lengths))
        )
        if len(value) != lengths[2]:
            raise ValueError("cut off")
        at += sum(lengths)
        yield name.decode(), (kind.decode(), value)
