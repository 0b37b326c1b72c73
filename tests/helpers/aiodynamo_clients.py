"""Parts of aiodynamo clients."""

from aiodynamo.http.types import Request, Response


async def never(_: Request) -> Response:
    raise AssertionError
