"""Work that ends as it would have ended, even if whoever waits for it is cancelled meanwhile."""

import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def settled(work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns. If it is cancelled meanwhile, finish the work first.

    So whoever cancels a write does not go on before its outcome is settled. The work needs a deadline of its own.
    """
    import asyncio  # noqa: PLC0415 - a server has imported it; what only imports this package waits for none of it

    with anyio.CancelScope(shield=True):
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # Trio's: there is no other way to cancel.
            result = await work
        else:
            result = await _in_task(work)
    return result


async def _in_task(work: Coroutine[Any, Any, T]) -> T:
    """Shield the work from `Task.cancel` as well, which `asyncio.timeout` uses and anyio's shield lets through."""
    import asyncio  # noqa: PLC0415 - as above

    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        cancelled = error
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # Nobody is left to be told.
    raise cancelled
