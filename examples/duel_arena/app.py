"""The arena's ASGI app. Everything it knows about a player is in `request.session`.

The session holds `player`, `score`, `cheers:red` and `cheers:blue` and, for each duel, `duel:<id>` and `answers:<id>`:
keys of their own, because sessions are saved key by key. An answer that ends while a vote comes in does not undo the
vote, and two cheers of the same moment both count.

Every session that is bound to the player's name is a device of theirs. There is no password: this is a game, and
whoever says that they are Ada sees Ada's devices, and can end them.
"""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from anyio import sleep
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    Session,
    devices,
    session_of,
)
from examples.duel_arena import contenders
from examples.duel_arena.bodies import json_body, line_of_text
from examples.duel_arena.browsers import browser_of
from examples.duel_arena.calls import CountCalls, late_calls, watch
from examples.emulator import Emulator

STATIC = Path(__file__).parent / "static"

PACE = 0.115
"""Seconds per word, about."""

MAX_AGE = 3600
"""Seconds until a session that nobody looks at is over."""

REMEMBERED = 30 * 86_400
"""The same, for who asked to be remembered."""

TOUCH_AFTER = 30
"""Seconds by which the time a device was last seen may be off: each write of an expiry costs."""

CHEER = 4
"""How many words' time a cheer takes."""

MAX_NAME = 40
MAX_QUESTION = 140
MAX_DUELS = 20
MAX_LATE = 5
MAX_DEVICES = 5


def create_app(
    store: DynamoDBStore,
    secret_key: str | None = None,
    *,
    pace: float = PACE,
    closing: Callable[[], bool] = lambda: False,
    emulator: Emulator | None = None,
) -> Starlette:
    """Return the app. Only `/api` has sessions: the page costs no DynamoDB call, and loads while DynamoDB is away.

    `pace` is seconds per word; once `closing` says so, the contenders fall silent in the middle of a sentence.
    `emulator` is what the page may stop and start; None: DynamoDB is not the demo's own.
    """
    arena = Arena(store, pace, closing)
    with contextlib.suppress(ConfigurationError):  # Without a client there is nothing to count, and memory takes over.
        watch(store.client)

    api = Starlette(routes=arena.routes(), exception_handlers={HTTPException: _say, ConfigurationError: _say_why})
    api.add_middleware(
        DynamoDBSessionMiddleware,
        secret_key,
        "duel_arena",
        MAX_AGE,
        store=store,
        touch_after=TOUCH_AFTER,
        max_sessions_per_owner=MAX_DEVICES,
    )
    api.add_middleware(CountCalls, late=arena.late)
    routes = [
        Route("/", _page),
        # Without a session, for it must work while DynamoDB is away.
        Route("/api/emulator", _switch_of(emulator), methods=["GET", "POST"]),
        Mount("/api", api),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(BrowserRules)])


class Arena:
    """The routes. What they share is the store; who plays is in the session."""

    def __init__(self, store: DynamoDBStore, pace: float, closing: Callable[[], bool]) -> None:
        self.store = store
        self.pace = pace
        self.closing = closing
        self.late = late_calls()

    def routes(self) -> list[Route]:
        return [
            Route("/arena", self.arena),
            Route("/panel", self.panel),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/new-id", self.new_id, methods=["POST"]),
            Route("/devices", self.devices),
            Route("/devices/end", self.end_device, methods=["POST"]),
            Route("/devices/end-others", self.end_others, methods=["POST"]),
            Route("/cheers", self.cheer, methods=["POST"]),
            Route("/duels", self.start, methods=["POST"]),
            Route("/duels/{id}/answers", self.answer, methods=["POST"]),
            Route("/duels/{id}/vote", self.vote, methods=["POST"]),
        ]

    async def arena(self, request: Request) -> Response:
        return JSONResponse(_state(session_of(request)))

    async def panel(self, request: Request) -> Response:
        """What the middleware does, in figures. The id itself is never told."""
        session = session_of(request)
        info = session.info
        return JSONResponse(
            {
                "mode": self.store.mode,
                "reason": self.store.mode_reason,
                "signed_in": "player" in session,
                "session": None if info.is_new else info.fingerprint,
                "size": 0 if info.is_new else len(json.dumps(session, ensure_ascii=False).encode()),
                "expires_in": info.expires_in,
                "lifetime": info.max_age or MAX_AGE,
                "late": [
                    {"path": calls.path, "operations": calls.operations, "at": calls.at}
                    for calls in self.late
                    if calls.session_id == info.id
                ][-MAX_LATE:],
            }
        )

    async def sign_in(self, request: Request) -> Response:
        body = await json_body(request)
        name = line_of_text(body, "name", "Your name", MAX_NAME)
        session = session_of(request)
        session.clear()
        session.update(player=name, score=dict.fromkeys(contenders.CONTENDERS, 0))
        session.bind(name, label=browser_of(request.headers.get("user-agent", "")))
        if body.get("remember") is True:
            session.set_max_age(REMEMBERED)
        return JSONResponse(_state(session))

    async def sign_out(self, request: Request) -> Response:
        await json_body(request)
        session = session_of(request)
        session.clear()
        return JSONResponse(_state(session))

    async def new_id(self, request: Request) -> Response:
        await json_body(request)
        session = _player(request)
        session.regenerate()
        return JSONResponse(_state(session))

    async def devices(self, request: Request) -> Response:
        return await _show_devices(_player(request))

    async def end_device(self, request: Request) -> Response:
        body = await json_body(request)
        session = _player(request)
        if not await devices.end(session, body.get("device", "")):
            raise HTTPException(404, "That device is signed out already.")
        return await _show_devices(session)

    async def end_others(self, request: Request) -> Response:
        await json_body(request)
        session = _player(request)
        await devices.end_others(session)
        return await _show_devices(session)

    async def cheer(self, request: Request) -> Response:
        """Count a cheer, some time after the session was read: two at once have both read it before either is saved."""
        body = await json_body(request)
        session = _player(request)
        corner, read = _corner(body), _cheers(session)
        await sleep(CHEER * self.pace)
        session[f"cheers:{corner}"] = read[corner] + 1
        return JSONResponse({"read": read})

    async def start(self, request: Request) -> Response:
        body = await json_body(request)
        session = _player(request)
        if "topic" in body:
            topic = contenders.TOPICS.get(str(body["topic"]))
            if topic is None:
                raise HTTPException(422, "Nobody here has heard of that topic.")
            question = topic.question
        else:
            topic = None
            question = line_of_text(body, "question", "The question", MAX_QUESTION)
        name = secrets.token_hex(4)
        duel = {"at": time.time_ns(), "question": question, "topic": topic and topic.id, "vote": None}
        session[f"duel:{name}"] = duel
        _forget_oldest(session)
        return JSONResponse(_shown(session, name), 201)

    async def answer(self, request: Request) -> Response:
        """Stream both answers, one JSON object a line."""
        await json_body(request)
        session, name = _duel(request)
        # A proxy that collects the words would spoil the show.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._speak(session, name), 200, headers, media_type="application/x-ndjson")

    async def _speak(self, session: Session, name: str) -> AsyncIterator[str]:
        duel = session[f"duel:{name}"]
        answers = contenders.answers(name, duel["question"], contenders.TOPICS.get(duel["topic"]))
        async for corner, word in contenders.speak(answers, self.pace):
            if self.closing():
                return
            yield _line(corner=corner, word=word)
        # The headers left before the first word did. The middleware saves this when the response has ended.
        session[f"answers:{name}"] = answers
        yield _line(end=True)

    async def vote(self, request: Request) -> Response:
        body = await json_body(request)
        session, name = _duel(request)
        corner = _corner(body)
        if session[f"duel:{name}"]["vote"] is not None:
            raise HTTPException(409, "You have voted on this duel already.")
        # Deep inside, and saved all the same: what counts is what the session holds, not how it got there.
        session[f"duel:{name}"]["vote"] = corner
        session["score"][corner] += 1
        return JSONResponse({"duel": _shown(session, name), "score": session["score"]})


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "page.html")


async def _say(_: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    return JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)


async def _say_why(_: Request, error: Exception) -> Response:
    """An index that is missing, or that may not be asked: the arena goes on without it."""
    return JSONResponse({"error": str(error)}, 503)


def _switch_of(emulator: Emulator | None) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that stops and starts the emulator, and tells whether it runs; None: there is none."""

    async def switch(request: Request) -> Response:
        if request.method == "POST" and emulator:
            body = await json_body(request)
            await run_in_threadpool(emulator.start if body.get("running") else emulator.stop)
        return JSONResponse({"running": emulator and emulator.is_running})

    return switch


def _corner(body: dict[str, Any]) -> str:
    corner = body.get("corner")
    if corner not in ("red", "blue"):
        raise HTTPException(422, "It is the red corner or the blue one.")
    return str(corner)


def _player(request: Request) -> Session:
    session = session_of(request)
    if "player" not in session:
        raise HTTPException(401, "Sign in first.")
    return session


def _duel(request: Request) -> tuple[Session, str]:
    session, name = _player(request), request.path_params["id"]
    if f"duel:{name}" not in session:
        raise HTTPException(404, "This duel is not in your session any more.")
    return session, name


async def _show_devices(session: Session) -> Response:
    """Tell of the player's devices, this one first. Who has just ended this one is a player no more."""
    shown = await devices.of(session) if "player" in session else []
    now = int(time.time())
    return JSONResponse(
        {
            "player": session.get("player"),
            "devices": [
                {
                    "handle": device.handle,
                    "browser": device.label,
                    "since": device.created_at,
                    "idle": 0 if device.is_current else max(0, now - (device.last_seen or device.created_at)),
                    "here": device.is_current,
                }
                for device in sorted(shown, key=lambda device: not device.is_current)
            ],
        }
    )


def _state(session: Session) -> dict[str, Any]:
    return {
        "player": session.get("player"),
        "score": session.get("score"),
        "cheers": _cheers(session),
        "duels": [_shown(session, name) for name in reversed(_names(session))],
        "topics": [{"id": topic.id, "question": topic.question} for topic in contenders.TOPICS.values()],
        "contenders": {
            corner: {"name": contender.name, "motto": contender.motto}
            for corner, contender in contenders.CONTENDERS.items()
        },
        "limits": {"name": MAX_NAME, "question": MAX_QUESTION, "duels": MAX_DUELS, "devices": MAX_DEVICES},
    }


def _cheers(session: Session) -> dict[str, int]:
    return {corner: session.get(f"cheers:{corner}", 0) for corner in contenders.CONTENDERS}


def _shown(session: Session, name: str) -> dict[str, Any]:
    duel = session[f"duel:{name}"]
    return {
        "id": name,
        "at": duel["at"] // 10**9,
        "question": duel["question"],
        "vote": duel["vote"],
        "answers": session.get(f"answers:{name}"),
    }


def _names(session: Session) -> list[str]:
    """Return the duels' ids, oldest first. DynamoDB keeps a map's keys in no order."""
    duels = [key for key in session if key.startswith("duel:")]
    return [key.removeprefix("duel:") for key in sorted(duels, key=lambda key: session[key]["at"])]


def _forget_oldest(session: Session) -> None:
    kept = set(_names(session)[-MAX_DUELS:])
    for key in list(session):
        kind, _, name = key.partition(":")
        if kind in {"duel", "answers"} and name not in kept:
            del session[key]


def _line(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


class BrowserRules:
    """What the page may do in a browser: nothing but its own files and its own server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def ruled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = (
                    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
                )
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self.app(scope, receive, ruled)
