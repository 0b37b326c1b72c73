"""The chat's app. The web session holds who is logged in and which conversation is open; the conversation is not in it.

A conversation has an id of its own: the session's changes at every login, and another device has another session. Who
logs in goes on with the conversation begun last, wherever that was.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import Agent, Model, RunConfig, Runner
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel, Field

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, Session, session_of
from dynamodb_sessions.agents import DynamoDBConversation

TABLE = "conversations"
DAYS = 86400
PAGE = Path(__file__).with_name("page.html")


class Login(BaseModel):
    name: str = Field(min_length=1, max_length=40)


class Turn(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


def create_app(  # noqa: C901 - a page of routes
    store: DynamoDBStore, model: Model, *, secret_key: str | None = None, table_name: str = TABLE, **dynamodb: Any
) -> FastAPI:
    """Return the app. `dynamodb` is where the table of conversations is: `region_name`, `endpoint_url`, `client`."""
    app = FastAPI(title="Agent chat")
    app.add_middleware(DynamoDBSessionMiddleware, secret_key, store=store, exclude=["/page"])
    agent = Agent(name="assistant", instructions="Be brief.", model=model)
    answers: set[asyncio.Task[None]] = set()

    def conversation(session: Session) -> DynamoDBConversation:
        if "user" not in session:
            raise HTTPException(401, "Log in first.")
        return DynamoDBConversation(
            session["conversation"], table_name, owner=session.info.owner, ttl_seconds=30 * DAYS, **dynamodb
        )

    @app.get("/")
    def home() -> RedirectResponse:
        return RedirectResponse("/page")

    @app.get("/page")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.post("/login")
    async def login(request: Request, body: Login) -> JSONResponse:
        session, owner = session_of(request), f"chat/{body.name}"
        session.clear()
        session.bind(owner)
        session["user"], session["conversation"] = body.name, str(uuid.uuid4())
        async for latest in DynamoDBConversation.of_owner(owner, table_name, **dynamodb):
            session["conversation"] = latest.session_id
            break
        return JSONResponse({"user": body.name})

    @app.post("/logout")
    def logout(request: Request) -> JSONResponse:
        session_of(request).clear()
        return JSONResponse({})

    @app.post("/new")
    def begin_anew(request: Request) -> JSONResponse:
        session = session_of(request)
        conversation(session)
        session["conversation"] = str(uuid.uuid4())
        return JSONResponse({})

    @app.get("/history")
    async def history(request: Request) -> JSONResponse:
        session = session_of(request)
        found = [message.item async for message in conversation(session).messages()]
        # What a tool was asked and answered is in a conversation, too, and has no role.
        messages = [{"role": each["role"], "text": text_of(each)} for each in found if "role" in each]
        return JSONResponse({"user": session["user"], "messages": messages})

    @app.post("/chat")
    async def chat(request: Request, turn: Turn) -> StreamingResponse:
        run = Runner.run_streamed(
            agent, turn.text, session=conversation(session_of(request)), run_config=RunConfig(tracing_disabled=True)
        )
        words: asyncio.Queue[str | None] = asyncio.Queue()

        async def listen() -> None:
            try:
                async for event in run.stream_events():
                    if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                        words.put_nowait(event.data.delta)
            finally:
                words.put_nowait(None)

        # Not in the response: if its browser goes away, the answer is to be in the conversation all the same.
        listening = asyncio.create_task(listen())
        answers.add(listening)
        listening.add_done_callback(answers.discard)

        async def stream() -> AsyncIterator[str]:
            while (word := await words.get()) is not None:
                yield word
            await listening

        return StreamingResponse(stream(), media_type="text/plain; charset=utf-8")

    return app


def text_of(item: dict[str, Any]) -> str:
    """Return the text of a message as the SDK keeps it."""
    content = item["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
