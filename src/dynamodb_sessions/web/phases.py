"""How a request goes on: what each message of the app means for its session, as a table.

PURE: it says what is to be done and which phase follows. `request_cycle.py` does it. In the manner of h11: a state that
is not in the table cannot be reached.
"""

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Any

_SERVER_ERROR = 500


class Phase(StrEnum):
    """How far one request, or one websocket, is."""

    LOADING = auto()
    """Before the app: its session is being loaded."""
    RUNNING = auto()
    """The app runs, and has sent nothing: the client can still be told anything."""
    STARTED = auto()
    """The response has started, or the websocket is open or closed: no cookie can be set any more."""
    STREAMING = auto()
    """A part of the body is sent, and more follows."""
    FAILED = auto()
    """The response says that the app failed: of what it did to the session, only a logout counts."""
    REFUSED = auto()
    """The client was told to come back later: whatever the app still says is not passed on."""
    OVER = auto()
    """The app has ended."""


class Kind(StrEnum):
    """What a message from the app is."""

    START = auto()
    """A response that did not fail, or a websocket that is accepted."""
    FAILURE = auto()
    """A response with a status from 500."""
    CLOSE = auto()
    """A websocket is closed. Before it was accepted, it never has headers that could carry a cookie."""
    PART = auto()
    """A body of which more follows."""
    END = auto()
    """A body, or its last part."""
    OTHER = auto()


class Action(StrEnum):
    """What is to be done when a message comes."""

    PASS = auto()
    COMMIT_THEN_HEADERS = auto()
    """Store the changes, and add the cookie that tells of it. An outage: answer 503 or 1013, and REFUSED follows."""
    LOGOUT_THEN_HEADERS = auto()
    """As before, but of all changes only a logout is stored."""
    COMMIT_WITHOUT_COOKIE = auto()
    """As before, but a new session is not stored, with a warning: no browser would ever hear of it."""
    SAVE_LATE_THEN_PASS = auto()
    """Store what was changed since the start. An outage: one ERROR in the log, for nobody is left to be told.

    Before the end of the stream is passed on, so that the same browser's next request sees it.
    """
    SWALLOW = auto()


class Ending(StrEnum):
    """How the app has ended."""

    RETURNED = auto()
    RAISED = auto()
    GONE = auto()
    """It was cancelled, or raised after the client had gone: it did not fail."""


_TABLE: dict[tuple[Phase, Kind], tuple[Action, Phase]] = {
    (Phase.RUNNING, Kind.START): (Action.COMMIT_THEN_HEADERS, Phase.STARTED),
    (Phase.RUNNING, Kind.FAILURE): (Action.LOGOUT_THEN_HEADERS, Phase.FAILED),
    (Phase.RUNNING, Kind.CLOSE): (Action.COMMIT_WITHOUT_COOKIE, Phase.STARTED),
    (Phase.STARTED, Kind.PART): (Action.PASS, Phase.STREAMING),
    (Phase.STREAMING, Kind.END): (Action.SAVE_LATE_THEN_PASS, Phase.STARTED),
}
"""What is to be done, and what follows if it succeeds. The other cells follow below it."""
# Every message of a request that nobody listens to any more is swallowed; any other is passed on.
for _phase in Phase:
    _other = Action.SWALLOW if _phase in (Phase.REFUSED, Phase.OVER) else Action.PASS
    for _kind in Kind:
        _TABLE.setdefault((_phase, _kind), (_other, _phase))

_SAVES_LATE = frozenset(
    (phase, how) for phase in (Phase.STARTED, Phase.STREAMING) for how in (Ending.RETURNED, Ending.GONE)
)
"""How an app ends whose changes since the start are saved. Else only a logout counts."""

_KINDS = {
    "http.response.start": Kind.START,
    "websocket.accept": Kind.START,
    "websocket.http.response.start": Kind.START,
    "websocket.close": Kind.CLOSE,
    "http.response.body": Kind.END,
    "websocket.http.response.body": Kind.END,
}

# What every request looks up: until CPython 3.12 a member of an enum takes as long to find as a function takes to call.
_START, _END, _OTHER = Kind.START, Kind.END, Kind.OTHER


def kind_of(message: Mapping[str, Any]) -> Kind:
    """Return what a message from the app is."""
    kind = _KINDS.get(message["type"], _OTHER)
    if kind is _START and message.get("status", 200) >= _SERVER_ERROR:
        return Kind.FAILURE
    if kind is _END and message.get("more_body"):
        return Kind.PART
    return kind


def transition(phase: Phase, kind: Kind) -> tuple[Action, Phase]:
    """Return what is to be done with a message of this kind, and the phase that follows if it succeeds."""
    return _TABLE[phase, kind]


def saves_late(phase: Phase, ending: Ending) -> bool:
    """Whether what was changed since the response started is saved when the app has ended so."""
    return (phase, ending) in _SAVES_LATE
