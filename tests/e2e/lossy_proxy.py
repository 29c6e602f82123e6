"""
A network between outside agents and the reconciler that loses answers.
"""

import asyncio
import random


class Proxy:
    """Hands every request on to a server and loses some of the answers: the connection breaks instead."""

    def __init__(self, server: str, drops: float) -> None:
        """`drops`: percent of the answers."""
        self._address = server.removeprefix("http://").split(":")
        self._drops = drops
        self._chance = random.Random(5)
        self._open = set()
        self.answers = self.dropped = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1000)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader, writer):
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader, writer):
        try:
            answers, requests = await asyncio.open_connection(*self._address)
        except OSError:  # it was killed
            writer.transport.abort()
            return
        asked = asyncio.Event()
        ways = [
            asyncio.create_task(way)
            for way in (self._hand_on(reader, requests, asked), self._hand_back(answers, writer, asked))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            requests.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _hand_on(self, reader, requests, asked):
        while data := await reader.read(65536):
            asked.set()
            requests.write(data)
            await requests.drain()

    async def _hand_back(self, answers, writer, asked):
        while data := await answers.read(65536):
            if asked.is_set():
                asked.clear()
                self.answers += 1
                if self._chance.random() * 100 < self._drops:
                    self.dropped += 1
                    return
            writer.write(data)
            await writer.drain()
