"""A DynamoDB of five operations on a dict, in a process of its own: each answer comes after an exact latency.

For measuring what is in front of it: it says nothing about DynamoDB's speed and forgets everything at its end. It
understands the expressions this package sends, and refuses all others. `python -m benchmarks.stub` prints its address
and runs until its standard input ends.
"""

import argparse
import contextlib
import gc
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from dynamodb_sessions.stores.table_schema import KEY

Json = dict[str, Any]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 %d -\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"
_TARGET = re.compile(rb"\r\nx-amz-target: *DynamoDB_20120810\.(\w+)", re.IGNORECASE)
_TERM = re.compile(
    r"\s*(?:attribute_(?P<test>exists|not_exists|type)\((?P<of>#?\w+)(?:, *(?P<kind>:\w+))?\)"
    r"|contains\((?P<set>#?\w+), *(?P<member>:\w+)\)|(?P<left>#?\w+) *(?P<sign>=|<=|>=|<|>) *(?P<right>:\w+))\s*"
)
_COMPARISONS = {"<=": le, ">=": ge, "<": lt, ">": gt}
_WORD = re.compile(r"\s*(AND|OR|NOT|[()])\s*")
_CLAUSE = re.compile(r"(SET|ADD|REMOVE) (.+?)(?= SET | ADD | REMOVE |$)")
_ASSIGNMENT = re.compile(r"([#\w.]+) *[= ] *(?:(:\w+)|(#\w+)|if_not_exists\((#\w+), *([:#]\w+)\)(?: *\+ *(:\w+))?)")
_COMMA = re.compile(r",(?![^(]*\))")


class Refusal(Exception):
    """What DynamoDB answers instead of a result."""

    def __init__(self, kind: str, **more: Any) -> None:
        super().__init__(kind)
        self.body = {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": kind, **more}


class Items:
    """The items of all tables, and the operations on them."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], Json] = {}
        self._operations: dict[bytes, Callable[[Json], Json]] = {
            b"GetItem": self._get,
            b"PutItem": self._put,
            b"UpdateItem": self._update,
            b"DeleteItem": self._delete,
            b"TransactWriteItems": self._transact,
        }

    def answer(self, operation: bytes, body: bytes) -> tuple[int, bytes]:
        """Return the status and the JSON of an answer."""
        try:
            if operation not in self._operations:
                raise Refusal("UnknownOperationException")  # noqa: TRY301
            return 200, json.dumps(self._operations[operation](json.loads(body))).encode()
        except Refusal as refusal:
            return 400, json.dumps(refusal.body).encode()

    def _get(self, request: Json) -> Json:
        item = self._items.get(_place(request, request["Key"]))
        return {} if item is None else {"Item": item}

    def _put(self, request: Json) -> Json:
        place = _place(request, request["Item"])
        _check(request, self._items.get(place))
        self._items[place] = request["Item"]
        return {}

    def _update(self, request: Json) -> Json:
        place = _place(request, request["Key"])
        item = self._items.get(place)
        _check(request, item)
        self._items[place], updated = _updated(request, item or request["Key"])
        return {"Attributes": updated} if request.get("ReturnValues") == "UPDATED_NEW" else {}

    def _delete(self, request: Json) -> Json:
        place = _place(request, request["Key"])
        _check(request, self._items.get(place))
        self._items.pop(place, None)
        return {}

    def _transact(self, request: Json) -> Json:
        writes = [next(iter(write.items())) for write in request["TransactItems"]]
        codes = []
        for _, write in writes:
            place = _place(write, write["Item"] if "Item" in write else write["Key"])
            codes.append("None" if _holds(write, self._items.get(place)) else "ConditionalCheckFailed")
        if set(codes) != {"None"}:
            raise Refusal("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])
        for kind, write in writes:
            if kind != "ConditionCheck":
                self._operations[f"{kind}Item".encode()](write)
        return {}


def _place(request: Json, holder: Json) -> tuple[str, str]:
    return request["TableName"], holder[KEY]["S"]


def _check(request: Json, item: Json | None) -> None:
    if not _holds(request, item):
        raise Refusal("ConditionalCheckFailedException")


def _holds(request: Json, item: Json | None) -> bool:
    """Whether a request's condition, if it has one, is true of an item."""
    expression = request.get("ConditionExpression")
    if expression is None:
        return True
    names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    return _condition(expression)(item or {}, names, values)


def _is_true(term: tuple[str, str, str], item: Json, names: Json, values: Json) -> bool:
    operator, name, placeholder = term
    attribute = item.get(names.get(name, name))
    if operator in ("exists", "not_exists"):
        return (attribute is not None) == (operator == "exists")
    if attribute is None:
        return False
    value = values[placeholder]
    if operator == "type":
        return value["S"] in attribute
    if operator == "contains":
        return value["S"] in attribute.get("SS", ())
    if operator == "=":
        return bool(attribute == value)
    return bool(_COMPARISONS[operator](float(attribute["N"]), float(value["N"])))


Condition = Callable[[Json, Json, Json], bool]


@lru_cache
def _condition(expression: str) -> Condition:
    """Return what tells whether a condition is true of an item."""
    condition, rest = _either(expression)
    if rest:
        raise Refusal("ValidationException")
    return condition


def _either(text: str) -> tuple[Condition, str]:
    """Return the condition that a text begins with, and what follows it. OR binds less than AND, and that than NOT."""
    one, text = _both(text)
    while (word := _WORD.match(text)) and word[1] == "OR":
        other, text = _both(text[word.end() :])
        one = partial(_any_of, one, other)
    return one, text


def _both(text: str) -> tuple[Condition, str]:
    one, text = _single(text)
    while (word := _WORD.match(text)) and word[1] == "AND":
        other, text = _single(text[word.end() :])
        one = partial(_all_of, one, other)
    return one, text


def _single(text: str) -> tuple[Condition, str]:
    if word := _WORD.match(text):
        inner, rest = (_single if word[1] == "NOT" else _either)(text[word.end() :])
        if word[1] == "NOT":
            return partial(_not, inner), rest
        if word[1] == "(" and (closing := _WORD.match(rest)) and closing[1] == ")":
            return inner, rest[closing.end() :]
    elif found := _TERM.match(text):
        if found["set"]:
            term = "contains", found["set"], found["member"]
        elif found["test"]:
            term = found["test"], found["of"], found["kind"] or ""
        else:
            term = found["sign"], found["left"], found["right"]
        return partial(_is_true, term), text[found.end() :]
    raise Refusal("ValidationException")


def _all_of(one: Condition, other: Condition, *item: Json) -> bool:
    return one(*item) and other(*item)


def _any_of(one: Condition, other: Condition, *item: Json) -> bool:
    return one(*item) or other(*item)


def _not(one: Condition, *item: Json) -> bool:
    return not one(*item)


def _updated(request: Json, item: Json) -> tuple[Json, Json]:
    """Return the item as an update leaves it, and what is new in it. The given item stays as it is."""
    names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    item, updated = dict(item), Json()
    for action, path, *operands in _changes(request["UpdateExpression"]):
        name, *inner = (names.get(part, part) for part in path)
        target, note = item, updated
        if inner:
            # A map that this update has not met yet is still the stored one.
            if name not in updated:
                item[name] = {"M": dict(item[name]["M"])}
            target, note, name = item[name]["M"], updated.setdefault(name, {"M": {}})["M"], inner[0]
        if action == "REMOVE":
            target.pop(name, None)
            continue
        placeholder, other, seen, default, more = operands
        if placeholder:
            value = values[placeholder]
        elif other:
            value = item[names[other]]
        else:
            value = item.get(names[seen]) or (values[default] if default in values else item[names[default]])
            value = _sum(value, values[more]) if more else value
        if action == "ADD" and name in target:
            value = _sum(target[name], value)
        target[name] = note[name] = value
    return item, updated


def _sum(value: Json, more: Json) -> Json:
    """Return the sum of two numbers, or the union of two sets."""
    if "SS" in more:
        return {"SS": sorted({*value["SS"], *more["SS"]})}
    return {"N": str(int(value["N"]) + int(more["N"]))}


@lru_cache
def _changes(expression: str) -> list[tuple[Any, ...]]:
    """Return what an update does: action, path, and what the value is made of."""
    changes: list[tuple[Any, ...]] = []
    for action, arguments in _CLAUSE.findall(expression):
        for argument in _COMMA.split(arguments):
            if action == "REMOVE":
                changes.append((action, argument.strip().split(".")))
            elif found := _ASSIGNMENT.fullmatch(argument.strip()):
                changes.append((action, found[1].split("."), *found.groups()[1:]))
            else:
                raise Refusal("ValidationException")
    return changes


class Server:
    """As much of HTTP/1.1 as DynamoDB's clients speak, on bare sockets: an event loop would be measured with them."""

    def __init__(self, latency: float) -> None:
        self._items = Items()
        self._latency = latency
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = "http://{}:{}".format(*self._listening.getsockname())
        self._received: dict[socket.socket, bytes] = {}
        self._due: deque[tuple[float, socket.socket, bytes]] = deque()

    def run(self) -> None:
        """Answer until standard input ends."""
        with selectors.DefaultSelector() as ready:
            ready.register(sys.stdin, selectors.EVENT_READ)
            ready.register(self._listening, selectors.EVENT_READ, self._accept)
            while True:
                timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
                for key, _ in ready.select(timeout):
                    if key.data is None:
                        return
                    key.data(ready, key.fileobj)
                while self._due and self._due[0][0] <= time.monotonic():
                    self._send(*self._due.popleft()[1:])

    def _accept(self, ready: selectors.BaseSelector, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received[connection] = b""
        ready.register(connection, selectors.EVENT_READ, self._receive)

    def _receive(self, ready: selectors.BaseSelector, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            ready.unregister(connection)
            connection.close()
            del self._received[connection]
            return
        received = self._received[connection] + data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            length, target = _LENGTH.search(received, 0, end), _TARGET.search(received, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(received) < whole:
                break
            status, answer = self._items.answer(target[1] if target else b"", received[end + 4 : whole])
            received = received[whole:]
            answer = _HEAD % (status, len(answer)) + answer
            if self._latency:
                self._due.append((time.monotonic() + self._latency, connection, answer))
            else:
                self._send(connection, answer)
        self._received[connection] = received

    def _send(self, connection: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # Nobody waits for it any more.
            connection.sendall(answer)


@contextmanager
def running(latency: float = 0.0) -> Iterator[str]:
    """Run a stub in a process of its own while the block lasts. Returns its address."""
    with process(latency) as (url, _):
        yield url


@contextmanager
def process(latency: float = 0.0) -> Iterator[tuple[str, int]]:
    """Do the same, and return the process's number besides."""
    command = [sys.executable, "-m", "benchmarks.stub", "--latency-ms", str(latency * 1000)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield child.stdout.readline().strip(), child.pid


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    server = Server(parser.parse_args().latency_ms / 1000)
    gc.disable()  # There is no garbage in circles here, and no pause is to be measured.
    print(server.address, flush=True)
    server.run()
