"""Apps for `test_uvicorn.py` to serve in processes of their own. Only the environment configures them.

TESTS_CLIENT is their store's client, which no variable of the package's own names.
"""

import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, session_of

logging.basicConfig(level=logging.INFO, format="%(levelname)s [%(name)s] %(message)s")
logger = logging.getLogger(__name__)


held = session_of


def answer(request: Request) -> Response:
    return JSONResponse({"pid": os.getpid(), "session": dict(request.session)})


async def look(request: Request) -> Response:
    return answer(request)


async def put(request: Request) -> Response:
    request.session[request.path_params["key"]] = True
    return answer(request)


async def slow(request: Request) -> Response:
    logger.info("slow has begun")
    await anyio.sleep(0.5)
    return await put(request)


async def logout(request: Request) -> Response:
    request.session.clear()
    return answer(request)


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        yield "the response has started"
        request.session["streamed"] = True
        yield " and ended"

    return StreamingResponse(chunks())


async def talk(websocket: WebSocket) -> None:
    """Put every text that comes in into the session, and store it at once if it says so."""
    session = held(websocket)
    session["accepted"] = True
    await websocket.accept()
    async for text in websocket.iter_text():
        session[text] = True
        stored = text == "save" and await session.save()
        await websocket.send_text(str(stored))


def a_store() -> DynamoDBStore | None:
    client = os.environ.get("TESTS_CLIENT")
    if client is None:
        return None
    address = os.environ["DYNAMODB_ENDPOINT_URL"]
    return DynamoDBStore(os.environ["SESSION_TABLE_NAME"], endpoint_url=address, client=client)


def an_app(**options: Any) -> Starlette:
    app = Starlette(
        routes=[
            Route("/look", look),
            Route("/put/{key}", put),
            Route("/slow/{key}", slow),
            Route("/logout", logout),
            Route("/stream", stream),
            WebSocketRoute("/talk", talk),
        ]
    )
    app.add_middleware(DynamoDBSessionMiddleware, store=a_store(), **options)
    return app


forgiving = an_app()
strict = an_app(fallback="error")
