"""Holds every Argon2id run until it is let go, so that load can be arranged without timing."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from token_server.crypto import passwords
from token_server.crypto.argon2id import Argon2Cost, derive


class Gate:
    """Closed from the start; `entered` counts the runs that came to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = 0

        def wait(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
            self.entered += 1
            assert self.open.wait(30)
            return derive(password, salt, cost, length)

        monkeypatch.setattr(passwords, "derive", wait)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - the threads set no asyncio event
                await asyncio.sleep(0.001)
