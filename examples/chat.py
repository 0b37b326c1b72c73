"""A chat that closes where its user is signed out: by another tab, by another browser, or because time is up.

A websocket stays open for longer than its session may last. `session.wait_ended` tells when that has ended:
SESSION_SECRET_KEY=a-key-of-32-bytes-or-more-to-try-it python -m uvicorn examples.chat:app
"""

import asyncio
from contextlib import suppress
from typing import Annotated

import anyio
from fastapi import Body, Depends, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

from dynamodb_sessions import DynamoDBSessionMiddleware, Session, devices, session_of

EVERY = 5
"""Seconds between two looks at whether a session has ended."""

CurrentSession = Annotated[Session, Depends(session_of)]
Name = Annotated[str, Body(embed=True, min_length=1, max_length=40)]

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }
  :root { color-scheme: light dark; }
  [hidden] { display: none !important; }
  form, #who { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; margin: 1rem 0; }
  #who span { flex: 1; overflow-wrap: anywhere; }
  input { flex: 1; min-width: 0; }
  input, button { font: inherit; padding: .3rem .7rem; }
  #said { min-height: 12rem; padding: .7rem 1rem; border: 1px solid #8886; border-radius: .5rem; }
  #said p { margin: 0; overflow-wrap: anywhere; }
  #notice:not(:empty) { padding: .7rem 1rem; border-left: .3rem solid #d33; background: #d332; }
</style>
<h1>Chat</h1>
<p id="notice" role="alert"></p>
<form id="sign-in" hidden>
  <input id="name" aria-label="Your name" placeholder="Your name" maxlength="40" required><button>Sign in</button>
</form>
<main id="chat" hidden>
  <div id="who"><span>You are <strong id="user"></strong>.</span>
    <button id="sign-out">Sign out</button> <button id="sign-out-others">Sign out everywhere else</button></div>
  <div id="said" role="log"></div>
  <form id="say">
    <input id="text" aria-label="Message" placeholder="Message" maxlength="1000" autocomplete="off" required>
    <button>Send</button>
  </form>
</main>
<script type="module">
const at = (id) => document.getElementById(id);
const post = (path, body = {}) => fetch(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
});
let socket, user;
async function show() {
  const before = user;
  ({ user } = await (await fetch("/me", { cache: "no-store" })).json());
  at("sign-in").hidden = user !== null;
  at("chat").hidden = user === null;
  at("notice").textContent = before && !user ? "You were signed out, so the chat has closed." : "";
  if (user !== before) at("said").replaceChildren();
  at("user").textContent = user;
  if (user) open();
}
function open() {
  socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/chat`);
  socket.onmessage = ({ data }) => {
    const line = document.createElement("p");
    line.textContent = data;
    at("said").append(line);
  };
  // The session has ended, or has a new id, or the server is away: ask which it is.
  socket.onclose = ({ wasClean }) => setTimeout(look, wasClean ? 0 : 2000);
}
const look = () => show().catch(() => setTimeout(look, 2000));
at("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  await post("/sign-in", { name: at("name").value });
  await look();
};
at("say").onsubmit = (event) => {
  event.preventDefault();
  socket.send(at("text").value);
  at("text").value = "";
};
at("sign-out").onclick = async () => {
  user = null; // Nobody is told what they did themselves: the server may close the websocket before it answers.
  await post("/sign-out");
  socket.close();
};
at("sign-out-others").onclick = () => post("/sign-out-others");
look();
</script>
</html>
"""

room: set[asyncio.Queue[str]] = set()
"""What is still to be sent to each browser of this process."""

app = FastAPI()
app.add_middleware(DynamoDBSessionMiddleware, max_age=3600)


@app.get("/")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.get("/me")
def me(session: CurrentSession) -> dict[str, str | None]:
    return {"user": session.get("user")}


@app.post("/sign-in")
def sign_in(request: Request, session: CurrentSession, name: Name) -> None:
    session.clear()  # of whoever used this browser before
    session["user"] = name
    session.bind(name, label=request.headers.get("user-agent"))


@app.post("/sign-out")
def sign_out(session: CurrentSession) -> None:
    session.clear()


@app.post("/sign-out-others")
async def sign_out_others(session: CurrentSession) -> int:
    return await devices.end_others(session) if session.info.owner else 0


@app.websocket("/chat")
async def chat(websocket: WebSocket, session: CurrentSession) -> None:
    user = session.get("user")
    if user is None:
        await websocket.close()
        return
    await websocket.accept()
    unsent = asyncio.Queue[str]()
    room.add(unsent)

    async def read() -> None:
        async for text in websocket.iter_text():
            for each in room:
                each.put_nowait(f"{user}: {text}")
        tasks.cancel_scope.cancel()  # The browser has left.

    async def write() -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await websocket.send_text(await unsent.get())

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(write)
            await session.wait_ended(every=EVERY)
            with suppress(WebSocketDisconnect):
                await websocket.close(1008, "signed out")
            tasks.cancel_scope.cancel()
    finally:
        room.discard(unsent)
