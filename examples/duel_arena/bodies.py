"""What may come in: small JSON objects from the arena's own page, and short lines of text in them."""

import json
import unicodedata
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY = 4096


async def json_body(request: Request) -> dict[str, Any]:
    """Return the request's JSON object. Another site's form can send neither this content type nor this header."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "This takes application/json only.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This takes requests from its own page only.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"This takes {MAX_BODY:,} bytes at most.")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise HTTPException(400, "This takes a JSON object.")
    return parsed


def line_of_text(body: dict[str, Any], key: str, what: str, longest: int) -> str:
    """Return one line a person typed, its spaces tidied. `what` names it should it be refused."""
    value = body.get(key)
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise HTTPException(422, f"{what} is empty.")
    length = len(text.encode("utf-16-le", "surrogatepass")) // 2  # As a browser counts for `maxlength`.
    if length > longest:
        raise HTTPException(422, f"{what} is too long: {longest} characters at most, and this has {length}.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise HTTPException(422, f"{what} has characters in it that cannot be shown.")
    return text
