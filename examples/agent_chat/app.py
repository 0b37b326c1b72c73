"""The chat's app. The web session holds who is logged in and which conversation is open; the conversation is not in it.

A conversation has an id of its own: the session's changes at every login, and another device has another session. Who
logs in goes on with the conversation begun last, wherever that was, and can open the earlier ones.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from agents import Agent, Model, RunConfig, Runner
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel, Field

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, Session, session_of
from dynamodb_sessions.agents import DynamoDBConversation

TABLE = "conversations"
DAYS = 86400
LISTED = 20
PAGE = Path(__file__).with_name("page.html")

CurrentSession = Annotated[Session, Depends(session_of)]


class Login(BaseModel):
    name: str = Field(min_length=1, max_length=40)


class Turn(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


class Choice(BaseModel):
    id: str


class Conversations:
    """The table of conversations. `dynamodb` is where it is: `region_name`, `endpoint_url`, `client`."""

    def __init__(self, table_name: str, dynamodb: dict[str, Any]) -> None:
        self._place: dict[str, Any] = {"table_name": table_name, **dynamodb}

    def current(self, session: Session) -> DynamoDBConversation:
        """Return the one that is open. Raises HTTPException if nobody is logged in."""
        if "user" not in session:
            raise HTTPException(401, "Log in first.")
        owner = session.info.owner
        return DynamoDBConversation(session["conversation"], owner=owner, ttl_seconds=30 * DAYS, **self._place)

    async def ids_of(self, session: Session) -> list[str]:
        """Return the ids of the user's latest conversations, the one begun last first."""
        ids: list[str] = []
        async for each in DynamoDBConversation.of_owner(str(session.info.owner), **self._place):
            ids.append(each.session_id)
            if len(ids) == LISTED:
                break
        return ids

    async def title_of(self, conversation: str) -> str:
        """Return what was said first."""
        begun = DynamoDBConversation(conversation, **self._place).messages(limit=1)
        return "".join([text_of(first.item) async for first in begun])


def create_app(  # noqa: C901 - a page of routes
    store: DynamoDBStore, model: Model, *, secret_key: str | None = None, table_name: str = TABLE, **dynamodb: Any
) -> FastAPI:
    """Return the app. `dynamodb` is where the table of conversations is: `region_name`, `endpoint_url`, `client`."""
    app = FastAPI(title="Agent chat")
    app.add_middleware(DynamoDBSessionMiddleware, secret_key, store=store, exclude=["/page"])
    agent = Agent(name="assistant", instructions="Be brief.", model=model)
    conversations = Conversations(table_name, dynamodb)
    answers: set[asyncio.Task[None]] = set()

    @app.get("/")
    def home() -> RedirectResponse:
        return RedirectResponse("/page")

    @app.get("/page")
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.post("/login")
    async def login(session: CurrentSession, body: Login) -> JSONResponse:
        session.clear()
        session.bind(f"chat/{body.name}")
        latest, *_ = [*await conversations.ids_of(session), str(uuid.uuid4())]
        session["user"], session["conversation"] = body.name, latest
        return JSONResponse({"user": body.name})

    @app.post("/logout")
    def logout(session: CurrentSession) -> JSONResponse:
        session.clear()
        return JSONResponse({})

    @app.post("/new")
    def begin_anew(session: CurrentSession) -> JSONResponse:
        conversations.current(session)
        session["conversation"] = str(uuid.uuid4())
        return JSONResponse({})

    @app.get("/conversations")
    async def list_them(session: CurrentSession) -> JSONResponse:
        conversations.current(session)
        return JSONResponse(
            [{"id": each, "title": await conversations.title_of(each)} for each in await conversations.ids_of(session)]
        )

    @app.post("/open")
    async def open_another(session: CurrentSession, choice: Choice) -> JSONResponse:
        conversations.current(session)
        # Who knows an id can read its conversation, so what the browser names must be one of the user's.
        if choice.id not in await conversations.ids_of(session):
            raise HTTPException(404, "You have no such conversation.")
        session["conversation"] = choice.id
        return JSONResponse({})

    @app.get("/history")
    async def history(session: CurrentSession) -> JSONResponse:
        if "user" not in session:
            return JSONResponse({"user": None, "messages": []})
        found = [message.item async for message in conversations.current(session).messages()]
        # What a tool was asked and answered is in a conversation, too, and has no role.
        messages = [{"role": each["role"], "text": text_of(each)} for each in found if "role" in each]
        return JSONResponse({"user": session["user"], "conversation": session["conversation"], "messages": messages})

    @app.post("/chat")
    async def chat(session: CurrentSession, turn: Turn) -> StreamingResponse:
        run = Runner.run_streamed(
            agent,
            turn.text,
            session=conversations.current(session),
            run_config=RunConfig(tracing_disabled=True),
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
