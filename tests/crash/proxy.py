"""A network between workers and a broker that can be cut, in one direction or in both.

What is under way in a direction that is cut is held back and comes through when it is healed, as TCP would send it
again: the late arrival of what everybody had given up is part of the trouble.  Connections made meanwhile hear nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.crash.cluster import HOST

PIECE_BYTES = 64 << 10


class Proxy:
    """Takes connections on its port and passes them on to a port of the same host."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._to_broker = asyncio.Event()
        self._to_worker = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.heal()

    def cut(self, *, to_broker: bool, to_worker: bool) -> None:
        """From now on nothing gets through in these directions."""
        if to_broker:
            self._to_broker.clear()
        if to_worker:
            self._to_worker.clear()

    def heal(self) -> None:
        """Everything gets through again."""
        self._to_broker.set()
        self._to_worker.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a worker, until either side closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._to_broker.wait()
            broker_reader, broker_writer = await asyncio.open_connection(HOST, self._target)
            try:
                await asyncio.wait(
                    [
                        asyncio.ensure_future(_pass_on(reader, broker_writer, self._to_broker)),
                        asyncio.ensure_future(_pass_on(broker_reader, writer, self._to_worker)),
                    ]
                )
            finally:
                broker_writer.close()
        except ConnectionError:
            pass  # the broker is not there: the worker is told so, by the end of its connection
        finally:
            writer.close()
            self._connections.discard(task)

    def close(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event) -> None:
    """One direction: everything, and then the end; either side may be gone by then."""
    try:
        while piece := await reader.read(PIECE_BYTES):
            await open_.wait()
            writer.write(piece)
            await writer.drain()
        await open_.wait()
    except ConnectionError:
        pass  # whoever is gone is told to the other one, below
    finally:
        writer.close()


@asynccontextmanager
async def proxy(port: int, target: int) -> AsyncIterator[Proxy]:
    """A proxy on ``port`` that leads to ``target``."""
    way = Proxy(target)
    server = await asyncio.start_server(way.serve, HOST, port)
    try:
        yield way
    finally:
        server.close()
        way.close()
