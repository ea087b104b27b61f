"""Several server processes on the same two sockets: start, watch, replace, drain.

Workers are new interpreters (this command again), never forks of a process with threads. Each
holds one end of a socket pair: it reports over it that it listens and that its loop still turns,
and drains when the other end is gone, so that no worker outlives the supervisor. A worker that
dies is replaced with growing pauses; one that falls silent is killed first. What its threads were
at when it was killed or crashed is logged: names of functions and lines, no values.
"""

import asyncio
import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess

from token_server.errors import OperatorError
from token_server.logs import get_logger
from token_server.metrics import MULTIPROCESS_VARIABLE
from token_server.web.draining import turn_away
from token_server.web.server import Listeners, StopSignal

_log = get_logger(__name__)

# Not TOKEN_SERVER_...: it is no setting, and unknown settings are refused.
WORKER_VARIABLE = "_TOKEN_SERVER_WORKER_SOCKETS"
READY = b"r"
ALIVE = b"."
ALIVE_INTERVAL_S = 2.0
SILENCE_LIMIT_S = 30.0
START_LIMIT_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
KILL_MARGIN_S = 10.0
ABORT_MARGIN_S = 2.0
_STACK_LINES = 100


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers, how each is started, and how long they go on at a stop."""

    workers: int
    command: Sequence[str]
    environ: Mapping[str, str]
    drain_timeout_s: int
    drain_delay_s: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker that is gone: its exit status, and its stacks if it crashed or was aborted."""

    status: int
    stacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerSockets:
    """What a worker inherits: both listeners, and its link to the supervisor."""

    listeners: Listeners
    link: socket.socket


def inherited_sockets(environ: Mapping[str, str]) -> WorkerSockets | None:
    """The sockets of this process when it is a worker."""
    text = environ.get(WORKER_VARIABLE)
    if text is None:
        return None
    public, management, link = (socket.socket(fileno=int(number)) for number in text.split(","))
    for inherited in (public, management, link):
        inherited.setblocking(False)
    return WorkerSockets(Listeners(public, management), link)


@contextlib.asynccontextmanager
async def linked_to_supervisor(
    link: socket.socket, stop: StopSignal
) -> AsyncIterator[Callable[[], None]]:
    """Within the block the worker reports that it lives; yields what says "listening"."""
    loop = asyncio.get_running_loop()

    def say(word: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone; its end stops us below
            link.send(word)

    async def report() -> None:
        while True:
            say(ALIVE)
            await asyncio.sleep(ALIVE_INTERVAL_S)

    async def watch() -> None:
        # Nothing is ever sent to a worker: data is the end of the stream, or an error.
        with contextlib.suppress(OSError):
            await loop.sock_recv(link, 1)
        stop.drain("supervisor_ended")

    tasks = [asyncio.create_task(report()), asyncio.create_task(watch())]
    directory = os.environ.get(MULTIPROCESS_VARIABLE)
    if directory is not None:
        # In C, without the interpreter: also while a thread holds it in an endless loop.
        faulthandler.enable(_stacks_of(Path(directory), os.getpid()).open("w"))
    try:
        yield lambda: say(READY)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        link.close()


async def supervise(
    crew: Crew, listeners: Listeners, stop: StopSignal, *, on_listening: Callable[[], None]
) -> int:
    """Run the crew until `stop` is asked. Exit status 0 after a drain in which all ended well.

    OperatorError when a worker cannot start at all: it has said why on stderr.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix="token-server-metrics-"))
    except OSError as error:
        raise OperatorError(
            f"Cannot make a directory for the workers' counters: {error.strerror}. "
            "Give the process a writable TMPDIR."
        ) from error
    try:
        return await _Supervisor(crew, listeners, stop, directory).run(on_listening)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Supervisor:
    def __init__(
        self, crew: Crew, listeners: Listeners, stop: StopSignal, metrics_dir: Path
    ) -> None:
        self._crew = crew
        self._listeners = listeners
        self._stop = stop
        self._metrics_dir = metrics_dir
        self._codes: list[int] = []
        self._ready = [asyncio.Event() for _ in range(crew.workers)]

    async def run(self, on_listening: Callable[[], None]) -> int:
        keepers = [
            asyncio.create_task(self._keep_worker(index)) for index in range(self._crew.workers)
        ]
        all_ready = asyncio.gather(*(event.wait() for event in self._ready))
        closer = asyncio.create_task(self._close_listeners())
        try:
            waited: list[asyncio.Future[Any]] = [all_ready, *keepers]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if all_ready.done():
                on_listening()
            await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            all_ready.cancel()
            self._stop.asked.set()
            await asyncio.gather(all_ready, return_exceptions=True)
            results = await asyncio.gather(*keepers, return_exceptions=True)
            await closer
        for result in results:
            if isinstance(result, BaseException):
                raise result
        _log.info("supervisor_stopped", worker_statuses=self._codes)
        # A worker that serves handles SIGTERM: only one that was still starting dies of it.
        return 0 if set(self._codes) <= {0, -signal.SIGTERM} else 1

    async def _close_listeners(self) -> None:
        """At a stop: as long as anybody holds a socket open, the kernel accepts for it. Workers
        share the listener: who closes it last would reset what another one could not accept."""
        await self._stop.asked.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.forced.wait(), self._crew.drain_delay_s)
        turn_away(self._listeners.public)
        self._listeners.close()

    async def _keep_worker(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._stop.asked.is_set():
            started = loop.time()
            ended = await self._run_worker(index)
            if self._stop.asked.is_set():
                self._codes.append(ended.status)
                return
            if not self._ready[index].is_set():
                raise OperatorError("A worker could not start: its reason is above.")
            if loop.time() - started > 2 * LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            stacks = {"stacks": ended.stacks} if ended.stacks else {}
            _log.error(
                "worker_died", worker=index, status=ended.status, restart_in_s=pause_s, **stacks
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.asked.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _run_worker(self, index: int) -> _Ended:
        """One worker from its start to its end."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                process = await self._start(theirs)
            _log.info("worker_started", worker=index, pid=process.pid)
            watcher = asyncio.create_task(self._watch(index, process, ours))
            stopper = asyncio.create_task(self._stop_worker(process))
            try:
                status = await process.wait()
                return _Ended(status, _read_stacks(self._metrics_dir, process.pid))
            finally:
                watcher.cancel()
                stopper.cancel()
                await asyncio.gather(watcher, stopper, return_exceptions=True)
                multiprocess.mark_process_dead(process.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]

    async def _start(self, link: socket.socket) -> asyncio.subprocess.Process:
        passed = (
            self._listeners.public.fileno(),
            self._listeners.management.fileno(),
            link.fileno(),
        )
        environ = {
            **self._crew.environ,
            WORKER_VARIABLE: ",".join(map(str, passed)),
            MULTIPROCESS_VARIABLE: str(self._metrics_dir),
        }
        # A session of its own: Ctrl-C reaches the supervisor alone, which passes it on once.
        return await asyncio.create_subprocess_exec(
            *self._crew.command, env=environ, pass_fds=passed, start_new_session=True
        )

    async def _watch(
        self, index: int, process: asyncio.subprocess.Process, link: socket.socket
    ) -> None:
        """Hear that the worker is ready and alive; kill it when it falls silent."""
        loop = asyncio.get_running_loop()
        limit_s = START_LIMIT_S
        while True:
            try:
                words = await asyncio.wait_for(loop.sock_recv(link, 256), limit_s)
            except TimeoutError:
                _log.error("worker_silent", worker=index, pid=process.pid, for_s=limit_s)
                _send(process, signal.SIGABRT)  # which makes it say what it is at
                await asyncio.sleep(ABORT_MARGIN_S)
                _send(process, signal.SIGKILL)
                return
            except OSError:
                return
            if not words:
                return  # the worker has closed its end: it is leaving
            if READY in words:
                self._ready[index].set()
            limit_s = SILENCE_LIMIT_S

    async def _stop_worker(self, process: asyncio.subprocess.Process) -> None:
        await self._stop.asked.wait()
        _send(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            limit_s = self._crew.drain_delay_s + self._crew.drain_timeout_s + KILL_MARGIN_S
            await asyncio.wait_for(self._stop.forced.wait(), limit_s)
            _send(process, signal.SIGINT)
            await asyncio.sleep(KILL_MARGIN_S / 5)
        _log.error("worker_killed", pid=process.pid)
        _send(process, signal.SIGKILL)


def _stacks_of(directory: Path, pid: int) -> Path:
    return directory / f"stacks-{pid}"


def _read_stacks(directory: Path, pid: int) -> tuple[str, ...]:
    path = _stacks_of(directory, pid)
    with contextlib.suppress(OSError):
        text = path.read_text("utf-8", "replace")
        path.unlink()
        return tuple(line.strip() for line in text.splitlines()[:_STACK_LINES])
    return ()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
