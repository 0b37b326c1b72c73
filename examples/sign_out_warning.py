"""A page that says "You will be signed out in 2 minutes", and lets its user stay.

It asks how long the session has left, and does not extend it by asking: python -m uvicorn examples.sign_out_warning:app

The warning comes after 58 minutes. To see it sooner, make `max_age` below 180 seconds.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, session_of

PAGE = """<!doctype html>
<html lang="en">
<title>Sign-out warning</title>
<link rel="icon" href="data:,">
<p>Hello, %s.</p>
<form method="post" action="/sign-in"><button>Sign in</button></form>
<p id="warning" role="alert" hidden></p>
<button id="stay" hidden>Stay signed in</button>
<script type="module">
const warning = document.querySelector("#warning"), stay = document.querySelector("#stay");
const when = new Intl.RelativeTimeFormat("en");
async function poll(path = "/api/poll", method = "GET") {
  const { expires_in } = await (await fetch(path, { method })).json();
  warning.hidden = expires_in > 120;
  stay.hidden = warning.hidden || !expires_in;
  warning.textContent = expires_in
    ? `You will be signed out ${when.format(Math.ceil(expires_in / 60), "minute")}.` : "You are signed out.";
}
stay.onclick = () => poll("/api/stay", "POST");
setInterval(poll, 15_000);
poll();
</script>
"""


def page(request: Request) -> Response:
    name = "Ada" if session_of(request).get("user") else "whoever you are"
    return HTMLResponse(PAGE % name, headers={"Cache-Control": "no-store"})


def sign_in(request: Request) -> Response:
    session = session_of(request)
    session["user"] = "ada"
    session.bind("acme/ada")
    return RedirectResponse("/", 303)


def poll(request: Request) -> Response:
    expires_in = session_of(request).info.expires_in  # None: there is no session any more
    return JSONResponse({"expires_in": expires_in}, headers={"Cache-Control": "no-store"})


async def stay(request: Request) -> Response:
    session = session_of(request)
    if session.get("user"):  # To use the session is to extend it,
        await session.save()  # and what is stored now is what `poll` then tells.
    return poll(request)


routes = [
    Route("/", page),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/api/poll", poll),
    Route("/api/stay", stay, methods=["POST"]),
]
app = Starlette(routes=routes)
app.add_middleware(DynamoDBSessionMiddleware, max_age=3600, no_touch=["/api/poll"])
