"""Slow clients in a process of their own, so that they cost whoever times the others nothing.

`python -m tests.faults.slow_crowd HOST PORT EACH` opens EACH sockets of each kind, says `open`, and
lets them be slow until its input ends.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass

from tests.support.load import Address, get_request
from token_server.web.traffic import Limits

KINDS = ("silent", "head", "body", "reader")
_TRICKLE_S = 1.0
_PAUSE_S = 1.0
_PER_SOURCE = 400
_POST = b"POST /oauth2/token HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n"
_FORM = b"content-type: application/x-www-form-urlencoded\r\n\r\n"


@dataclass(slots=True)
class _Slow:
    kind: str
    socket: socket.socket


def _open_all(address: Address, each: int) -> list[_Slow]:
    opened = []
    for number, kind in enumerate(kind for _ in range(each) for kind in KINDS):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        source = number // _PER_SOURCE
        one.bind((f"127.0.{1 + source // 250}.{1 + source % 250}", 0))
        one.settimeout(20)
        one.connect(address)
        one.setblocking(False)
        opened.append(_Slow(kind, one))
        _say(opened[-1], _beginning(kind))
    time.sleep(_PAUSE_S)  # until they are answered: more may not be asked at once
    for slow in opened:  # once more: the first answers may have found a buffer
        if slow.kind == "reader":
            _say(slow, _beginning("reader"))
    return opened


def _beginning(kind: str) -> bytes:
    beginnings: dict[str, bytes] = {
        "silent": b"",
        "head": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ",
        "body": _POST + _FORM,
        # As much as may be pipelined: more than any buffer between us takes.
        "reader": get_request("/openapi.json") * (Limits().pipelined - 1),
    }
    return beginnings[kind]


def _trickle(slow: list[_Slow]) -> None:
    """A byte each, now and then, for those who pretend to be sending."""
    while True:
        time.sleep(_TRICKLE_S)
        for one in slow:
            if one.kind in ("head", "body"):
                _say(one, b"a")


def _say(one: _Slow, data: bytes) -> None:
    with contextlib.suppress(OSError):
        one.socket.send(data)


def main() -> None:
    host, port, each = sys.argv[1:]
    slow = _open_all((host, int(port)), int(each))
    sys.stdout.write(f"open {len(slow)}\n")
    sys.stdout.flush()
    threading.Thread(target=_trickle, args=(slow,), daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # thousands of sockets go with the process


if __name__ == "__main__":
    main()
