"""Runs one command until told to stop: `guard.py DIRECTORY COMMAND...`.

Stops it on SIGTERM, and when standard input ends, which it does with the process that started us,
however that one dies: no server outlives its tests. Then nobody else is left to remove the
directory. Run as a file: it must not import what it guards.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

_PATIENCE_S = 15.0


def main(directory: str, command: list[str]) -> int:
    server = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL)  # noqa: S603 - ours
    is_orphaned = threading.Event()

    def stop(*_: object) -> None:
        server.terminate()
        killer = threading.Timer(_PATIENCE_S, server.kill)
        killer.daemon = True
        killer.start()

    def wait_for_the_end() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock we would hold while Python ends
            pass
        is_orphaned.set()
        stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    status = server.wait()
    if is_orphaned.is_set():
        shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
