"""How a listener stops without losing a request, whoever stands before it and however it balances.

A proxy cannot send a POST twice, so none may meet a closing door: first every answer closes its
connection (RFC 9112 §9.6), then new connections are refused while those already made are still
accepted, and idle ones are left open for a while, because a request may be on its way. What
still runs then has the rest of DRAIN_TIMEOUT (uvicorn's own graceful shutdown).
"""

import array
import asyncio
import contextlib
import math
import socket
import struct
import sys
from dataclasses import dataclass

import uvicorn

from token_server.web.traffic import Traffic

IDLE_LINGER_S = 5.0  # proxies keep idle connections to us for less: docs/deploy/nginx-balancer.conf
_POLL_S = 0.05
# From the moment when nobody new is let in until the listener is closed: as long as handshakes
# under way may take, and at a supervisor's worker until the supervisor has come to it.
_ACCEPT_REST_S = 0.05
_WORKER_ACCEPT_REST_S = 0.2

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python's socket module does not name it
# Classic BPF over the TCP header: drop a segment whose flags are SYN without ACK.
_DROP_NEW = (
    (0x30, 0, 0, 13),  # load byte 13, the flags
    (0x54, 0, 0, 0x12),  # and SYN|ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


@dataclass(frozen=True, slots=True)
class Drain:
    """`delay_s`: go on accepting for so long first. `timeout_s`: afterwards, until the end.
    `idle_s`: of that, how long idle connections stay open. `is_shared`: the listener is a
    supervisor's, who turns new connections away for all."""

    delay_s: float
    timeout_s: float
    idle_s: float = IDLE_LINGER_S
    is_shared: bool = False


async def stop_accepting(
    server: uvicorn.Server, traffic: Traffic, listener: socket.socket, drain: Drain
) -> None:
    """All but the end: at the return `server` may exit, and has what is left of the time for it.

    May be cancelled at any point; then the exit is not gentle.
    """
    traffic.is_draining = True  # every answer that has not begun closes its connection
    await asyncio.sleep(drain.delay_s)
    if drain.is_shared:
        await asyncio.sleep(_WORKER_ACCEPT_REST_S)
    else:
        turn_away(listener)
        await asyncio.sleep(_ACCEPT_REST_S)
    for each in server.servers:
        each.close()
    listener.close()
    lingered_s = await _wait_for_connections(server, min(drain.idle_s, drain.timeout_s))
    server.config.timeout_graceful_shutdown = math.ceil(drain.timeout_s - lingered_s)


def turn_away(listener: socket.socket) -> None:
    """Let no new connection begin at this socket, in any process; those begun are completed.

    Closing it alone would reset those that wait to be accepted, with their requests sent. A
    client whose SYN is dropped sends it again after a second, to a closed port by then: refused,
    and with nothing lost. Without Linux nothing happens here.
    """
    if sys.platform != "linux":
        return
    program = array.array("B", b"".join(struct.pack("HBBI", *one) for one in _DROP_NEW))
    address, _ = program.buffer_info()
    with contextlib.suppress(OSError):  # a kernel without it: then we only close
        filter_program = struct.pack("HL", len(_DROP_NEW), address)
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


async def _wait_for_connections(server: uvicorn.Server, limit_s: float) -> float:
    """Until no connection is left, or for `limit_s`; how long it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(math.ceil(limit_s / _POLL_S)):
        if not server.server_state.connections:
            break
        await asyncio.sleep(_POLL_S)
    return min(loop.time() - begun, limit_s)
