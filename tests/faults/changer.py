"""A process that changes passwords through the services, as `token-server user passwd` does.

Reads one JSON document per line, `{"email", "password"}`, and answers each with one line when
the change is durable. Being a process of its own it can be killed in the middle of a change.
"""

import asyncio
import json
import os
import sys
from typing import Any

from token_server.config_loading import load_settings
from token_server.logs import configure_logging
from token_server.records import Secret
from token_server.runtime import open_runtime
from token_server.services.users import set_password

READY = "ready"


async def _serve() -> None:
    settings = load_settings("tool", {}, os.environ).settings
    async with open_runtime(settings, with_keys=False) as runtime:
        _say(READY)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order: dict[str, Any] = json.loads(line)
            await set_password(runtime, order["email"], Secret(order["password"]))
            _say("changed")


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    configure_logging("json", "error")
    asyncio.run(_serve())
