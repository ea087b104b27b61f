"""Hosts both applications in one event loop: sockets, uvicorn, limits, signals, the drain.

A stop (SIGTERM, SIGINT, or the end of the supervisor) turns readiness to 503, closes the public
listener as web/draining.py does it, lets running requests finish within DRAIN_TIMEOUT and ends
with status 0; a second signal does not wait. uvicorn's own signal handling, logging and forwarded
headers are off.
"""

import asyncio
import contextlib
import errno
import functools
import gc
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from litestar.types import ASGIApp

from token_server.config import Settings
from token_server.config_values import split_address
from token_server.errors import OperatorError
from token_server.logs import get_logger, lines_collected
from token_server.runtime import Runtime
from token_server.services.health import Readiness
from token_server.web.answers import security_headers
from token_server.web.draining import Drain, stop_accepting
from token_server.web.http1 import Http1
from token_server.web.traffic import Limits, Traffic

_log = get_logger(__name__)

BACKLOG = 2048
MANAGEMENT_CONNECTIONS = 128
MANAGEMENT_DRAIN_S = 2
SEND_BUFFER_BYTES = 64 * 1024  # of the kernel's for each connection; it takes twice as much
SPARE_DESCRIPTORS = 256  # databases, logs, keys, the management port, connections being refused
GAUGE_INTERVAL_S = 2.0
LAG_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Listeners:
    """Both sockets, bound; workers inherit them."""

    public: socket.socket
    management: socket.socket

    @property
    def public_address(self) -> str:
        return _address_of(self.public)

    @property
    def management_address(self) -> str:
        return _address_of(self.management)

    def listen(self) -> None:
        """From now on connections are taken: not sooner than somebody answers them."""
        for listener, setting in ((self.public, "BIND"), (self.management, "MANAGEMENT_BIND")):
            try:
                listener.listen(BACKLOG)
            except OSError as error:  # somebody else was quicker
                raise OperatorError(_bind_problem(_address_of(listener), setting, error)) from error

    def close(self) -> None:
        self.public.close()
        self.management.close()


@dataclass(frozen=True, slots=True)
class Hosting:
    """What one process serves, and where."""

    public_app: ASGIApp
    management_app: ASGIApp
    readiness: Readiness
    listeners: Listeners
    drain: Drain
    traffic: Traffic


class StopSignal:
    """Why and how fast to stop: set by signals, by the supervisor's end, or by a test."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()

    def ask(self, reason: str) -> None:
        """The first call asks for a drain, the second one for the end."""
        if not self.asked.is_set():
            self.drain(reason)
        elif not self.forced.is_set():
            _log.warning("stop_forced", reason=reason)
            self.forced.set()

    def drain(self, reason: str) -> None:
        """Ask for a drain; asking again changes nothing."""
        if not self.asked.is_set():
            _log.info("stop_requested", reason=reason)
            self.asked.set()


class Server(uvicorn.Server):
    """uvicorn with our protocol, and without its signal handling, which would end the process
    with status 143."""

    def __init__(self, app: ASGIApp, traffic: Traffic, drain_timeout_s: float) -> None:
        self.traffic = traffic
        protocol: Any = functools.partial(Http1, traffic, app)  # called like a class, and no more
        config = uvicorn.Config(
            app,
            http=protocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            interface="asgi3",
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(drain_timeout_s),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_listeners(settings: Settings) -> Listeners:
    """Both sockets; OperatorError names the address that cannot be had, and what to do.

    They refuse connections until `serve_app` listens, so that a load balancer takes another
    instance while this one starts.
    """
    public = _listen(settings.bind, "BIND")
    try:
        management = _listen(settings.management_bind, "MANAGEMENT_BIND")
    except OperatorError:
        public.close()
        raise
    return Listeners(public, management)


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a whole server process on uvloop where it is installed, else on asyncio's loop."""
    _raise_descriptor_limit()
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def stop_on_signals(stop: StopSignal, *, is_worker: bool = False) -> Iterator[None]:
    """SIGTERM and SIGINT ask `stop`, as long as the block runs.

    A worker drains at SIGTERM, however often it comes: service managers like to send it to every
    process, and the supervisor passes on its own. Only SIGINT makes a worker hurry.
    """
    loop = asyncio.get_running_loop()
    on_term = stop.drain if is_worker else stop.ask
    handlers = {signal.SIGTERM: on_term, signal.SIGINT: stop.ask}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler, number.name)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def serve_app(hosting: Hosting, stop: StopSignal, *, on_listening: Callable[[], None]) -> int:
    """Serve until `stop` is asked; the exit status: 0 after a drain, 1 when it was forced.

    `on_listening` is called once, when both ports answer.
    """
    with lines_collected(asyncio.get_running_loop().call_soon):
        return await _serve(hosting, stop, on_listening)


async def _serve(hosting: Hosting, stop: StopSignal, on_listening: Callable[[], None]) -> int:
    listeners = hosting.listeners
    # What is here now stays: a full collection need not look through it again, 60 ms each time.
    gc.freeze()
    listeners.listen()
    public = Server(hosting.public_app, hosting.traffic, hosting.drain.timeout_s)
    few = Traffic(Limits(connections=MANAGEMENT_CONNECTIONS))
    management = Server(hosting.management_app, few, MANAGEMENT_DRAIN_S)
    running = {
        asyncio.create_task(public.serve([listeners.public]), name="public"),
        asyncio.create_task(management.serve([listeners.management]), name="management"),
    }
    keeping = [
        asyncio.create_task(work)
        for work in (
            _update_gauges(hosting.readiness),
            public.traffic.keep_looking(),
            management.traffic.keep_looking(),
        )
    ]
    try:
        while not (public.started and management.started):
            _raise_failure(running)
            await asyncio.sleep(0.01)
        on_listening()
        await _wait_for_stop(stop, running)
        hosting.readiness.drain()
        await _unless_forced(
            stop, stop_accepting(public, public.traffic, listeners.public, hosting.drain)
        )
        return await _end(stop, public, management, running)
    finally:
        for task in (*keeping, *running):
            task.cancel()
        await asyncio.gather(*keeping, *running, return_exceptions=True)


async def _wait_for_stop(stop: StopSignal, running: set[asyncio.Task[None]]) -> None:
    asked = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait({asked, *running}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    _raise_failure(running)


async def _unless_forced(stop: StopSignal, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, or give it up at a second signal."""
    task = asyncio.create_task(work)
    forced = asyncio.create_task(stop.forced.wait())
    try:
        await asyncio.wait({task, forced}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, forced):
            each.cancel()
        await asyncio.gather(task, forced, return_exceptions=True)


async def _end(
    stop: StopSignal,
    public: Server,
    management: Server,
    running: set[asyncio.Task[None]],
) -> int:
    """The management port answers until the public one is done, so that a drain can be watched."""
    by_name = {task.get_name(): task for task in running}
    forced = asyncio.create_task(stop.forced.wait())
    try:
        for name, server in (("public", public), ("management", management)):
            server.should_exit = True
            await asyncio.wait({by_name[name], forced}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        forced.cancel()
    if stop.forced.is_set():
        return 1
    _log.info("server_stopped")
    return 0


def _raise_failure(running: set[asyncio.Task[None]]) -> None:
    for task in running:
        if task.done():
            task.result()
            raise OperatorError(f"The {task.get_name()} listener stopped by itself; see the log.")


async def _update_gauges(readiness: Readiness) -> None:
    """Every GAUGE_INTERVAL_S, and between them how late a timer comes: whatever holds the loop
    for long holds every request up."""
    loop = asyncio.get_running_loop()
    while True:
        readiness.update_gauges()
        for _ in range(round(GAUGE_INTERVAL_S / LAG_INTERVAL_S)):
            due_at = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            readiness.note_loop_lag(loop.time() - due_at)


def traffic_of(runtime: Runtime) -> Traffic:
    """The public listener's, within what this process may open."""
    settings = runtime.settings
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits(
        connections=max(1, min(settings.max_connections, allowed - SPARE_DESCRIPTORS)),
        connections_per_source=settings.max_connections_per_source,
    )
    if limits.connections < settings.max_connections:
        _log.warning(
            "connections_limited_by_descriptors", connections=limits.connections, limit=allowed
        )
    return Traffic(limits, settings.trusted_proxies, runtime.metrics, security_headers(settings))


def _raise_descriptor_limit() -> None:
    """As high as it may go: the soft limit is that low for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(address: str, setting: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: only for such sockets does asyncio turn Nagle's algorithm off. With it,
    # a body behind its headers waits for the client's delayed acknowledgement, some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Or the kernel buys megabytes of answers for a client that reads none of them.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OperatorError(_bind_problem(address, setting, error)) from error
    return listener


def _bind_problem(address: str, setting: str, error: OSError) -> str:
    flag = "--" + setting.lower().replace("_", "-")
    fixes = {
        errno.EADDRINUSE: f"another program uses port {split_address(address)[1]}: stop it "
        f"(`ss -ltnp` names it), or choose another port with {flag} or TOKEN_SERVER_{setting}",
        errno.EACCES: "ports below 1024 need privileges: use 8080 and let the proxy or the "
        "container runtime map the port",
        errno.EADDRNOTAVAIL: "this machine has no such address: use 127.0.0.1 or 0.0.0.0",
    }
    fix = fixes.get(error.errno or 0, error.strerror or "unknown reason")
    return f"Cannot listen on {address}: {fix}."


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
