"""Clients of aiobotocore, where it is installed: it pins botocore, so it has an environment of its own."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

Connect = Callable[[str], Awaitable[Any]]

KIND = "aiobotocore"
IF_INSTALLED = [KIND] if importlib.util.find_spec("aiobotocore") else []
"""A parameter of fixtures, or none."""


@asynccontextmanager
async def open_client(url: str, **config: Any) -> AsyncIterator[Any]:
    """Open a client as an app has it, with room for as many calls at once as a boto3 client of ours has."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - not everywhere
    from aiobotocore.session import get_session  # noqa: PLC0415 - as above

    settings = AioConfig(max_pool_connections=64, **config)
    async with get_session().create_client(
        "dynamodb", region_name="us-east-1", endpoint_url=url, config=settings
    ) as client:
        yield client


@asynccontextmanager
async def connecting(kind: str) -> AsyncIterator[Connect]:
    """Give a function that makes what a store takes as `client`, for an endpoint, where sessions are kept by one."""
    async with AsyncExitStack() as opened:

        async def connect(url: str) -> Any:
            if kind == KIND:
                return await opened.enter_async_context(open_client(url))
            return "async" if kind == "async" else None

        yield connect
