"""An event loop of our own for fsspec's file systems, whose threads and connections end with a fetch; fsspec's lives until the process ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread until the body ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fetch-loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_ended(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what runs in a loop: fsspec's ``sync`` then returns None in the threads that wait for it."""
    asyncio.run_coroutine_threadsafe(_cancelled(), loop).result()


async def _cancelled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ended() -> None:
    """Cancel what still runs, and end the loop's own threads."""
    await _cancelled()
    await asyncio.get_running_loop().shutdown_default_executor()
