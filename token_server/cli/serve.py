"""`token-server dev` and `token-server serve`: from settings to a process that answers.

The sockets are bound first (a port in use must not leave a half-made database behind), then the
runtime is opened, and what is ready is printed once both ports answer. With several workers the
first start's work (migrations, keys) is done once, before any worker starts.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click
import msgspec

from token_server.app import create_app
from token_server.cli.context import CliContext, setting_options
from token_server.cli.dev_banner import DevServer, banner, summary
from token_server.cli.process_memory import close_memory
from token_server.config import Settings
from token_server.config_loading import list_problems
from token_server.config_values import follow_bind, is_loopback, origin_of, split_address
from token_server.errors import OperatorError
from token_server.logs import configure_logging, get_logger
from token_server.runtime import Runtime, open_runtime
from token_server.services.demo import ensure_demo
from token_server.services.guess_watch import guesses_watched
from token_server.services.health import Readiness
from token_server.services.installation import package_version
from token_server.services.key_upkeep import keys_kept_up
from token_server.services.settings_check import check_serve, is_sqlite, require_no_demo
from token_server.web.draining import Drain
from token_server.web.health import create_management_app, health_handlers
from token_server.web.server import (
    Hosting,
    Listeners,
    StopSignal,
    open_listeners,
    run_loop,
    serve_app,
    stop_on_signals,
    traffic_of,
)
from token_server.web.supervisor import (
    Crew,
    WorkerSockets,
    inherited_sockets,
    linked_to_supervisor,
    supervise,
)
from token_server.web.waiting import Place, open_when_it_answers

_log = get_logger(__name__)


@click.command()
@setting_options()
@click.option("--i-know", is_flag=True, help="Allow addresses that other machines can reach.")
@click.pass_obj
def dev(cli: CliContext, *, i_know: bool) -> None:
    """Start a complete server for development, with nothing to prepare.

    Makes signing keys, a SQLite database in ./data, a demo user and two demo clients on the
    first start, and prints commands that get a token. On a terminal the output is for people,
    otherwise it is one line of JSON. Not for production: use `token-server serve` there.
    """
    loaded = cli.load("dev")
    settings = loaded.settings
    _check_dev(settings, i_know=i_know)
    configure_logging(settings.log_format, settings.log_level)
    listeners = open_listeners(settings)
    if not loaded.is_stated("issuer"):
        settings = _with_issuer_of(settings, listeners)
    raise SystemExit(run_loop(_serve_dev(settings, listeners)))


@click.command()
@setting_options()
@click.pass_obj
def serve(cli: CliContext) -> None:
    """Start the production server.

    Refuses an unsafe configuration, listing every problem with its fix: try it with
    `token-server config check --mode serve`. SIGTERM and SIGINT drain within DRAIN_DELAY and
    DRAIN_TIMEOUT and end with status 0; a second signal does not wait.
    """
    close_memory()
    inherited = inherited_sockets(os.environ)
    if inherited is not None:
        settings = cli.settings("serve")
        configure_logging(settings.log_format, settings.log_level)
        raise SystemExit(run_loop(_serve_worker(settings, inherited)))
    reading = cli.read("serve")
    findings = asyncio.run(check_serve(reading))
    if findings.problems:
        raise OperatorError(list_problems(findings.problems), exit_code=2)
    settings = reading.loaded.settings
    configure_logging(settings.log_format, settings.log_level)
    for warning in findings.warnings:
        _log.warning("setting_risky", problem=warning)
    listeners = open_listeners(settings)
    if settings.workers == 1:
        raise SystemExit(run_loop(_serve_alone(settings, listeners)))
    raise SystemExit(asyncio.run(_serve_with_workers(settings, listeners)))


def _check_dev(settings: Settings, *, i_know: bool) -> None:
    addresses = (settings.bind, settings.management_bind)
    public = [address for address in addresses if not is_loopback(split_address(address)[0])]
    if public and not i_know:
        raise OperatorError(
            f"dev listens on this machine only, and {public[0]} can be reached from others: its "
            "demo accounts and plain HTTP are not safe there. Use 127.0.0.1, or add --i-know.",
            exit_code=2,
        )
    if settings.workers != 1:
        raise OperatorError("dev runs one process: leave WORKERS at 1.", exit_code=2)


def _with_issuer_of(settings: Settings, listeners: Listeners) -> Settings:
    """The issuer with the port that was really given, for `--bind 127.0.0.1:0`."""
    issuer = follow_bind(listeners.public_address)
    audience = issuer if settings.default_audience == settings.issuer else settings.default_audience
    is_own = settings.browser_origins == (origin_of(settings.issuer),)
    origins = (origin_of(issuer),) if is_own else settings.browser_origins
    return msgspec.structs.replace(
        settings, issuer=issuer, default_audience=audience, browser_origins=origins
    )


def _host(runtime: Runtime, listeners: Listeners, drain: Drain) -> Hosting:
    readiness = Readiness(runtime)
    return Hosting(
        public_app=create_app(runtime, health_handlers(readiness)),
        management_app=create_management_app(runtime, readiness),
        readiness=readiness,
        listeners=listeners,
        drain=drain,
        traffic=traffic_of(runtime),
    )


@contextlib.asynccontextmanager
async def _kept_up(runtime: Runtime) -> AsyncIterator[None]:
    """What a serving process does besides answering."""
    async with keys_kept_up(runtime), guesses_watched(runtime):
        yield


async def _open_runtime(
    stack: contextlib.AsyncExitStack, place: Place, on_waiting: Callable[[], None] = lambda: None
) -> Runtime | None:
    """Opened on `stack`; while the database does not answer, documents are served. None when a
    stop was asked meanwhile."""

    async def opening() -> Runtime:
        return await stack.enter_async_context(open_runtime(place.settings))

    return await open_when_it_answers(opening, place, on_waiting)


async def _serve_dev(settings: Settings, listeners: Listeners) -> int:
    stop = StopSignal()
    with stop_on_signals(stop):
        async with open_runtime(settings) as runtime, _kept_up(runtime):
            path = runtime.store.path
            file = (path.parent if path is not None else Path("data")) / "demo.json"
            demo = await ensure_demo(runtime, file)
            kid = runtime.keyring.signer(runtime.clock.now()).kid
            server = DevServer(settings, listeners.management_address, kid, demo, file)

            def announce() -> None:
                text = banner(server) if sys.stdout.isatty() else summary(server)
                click.echo(text)

            # Nobody balances between development servers, and a person waits for the prompt.
            drain = Drain(settings.drain_delay_s, settings.drain_timeout_s, idle_s=0)
            return await serve_app(_host(runtime, listeners, drain), stop, on_listening=announce)


async def _serve_alone(settings: Settings, listeners: Listeners) -> int:
    stop = StopSignal()
    with stop_on_signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            runtime = await _open_runtime(stack, Place(settings, listeners, stop))
            if runtime is None:
                return 0
            await require_no_demo(runtime.store)
            drain = Drain(settings.drain_delay_s, settings.drain_timeout_s)
            hosting = _host(runtime, listeners, drain)
            announce = _log_started(settings, listeners)
            async with _kept_up(runtime):
                return await serve_app(hosting, stop, on_listening=announce)


async def _serve_worker(settings: Settings, sockets: WorkerSockets) -> int:
    stop = StopSignal()
    with stop_on_signals(stop, is_worker=True):
        async with (
            linked_to_supervisor(sockets.link, stop) as say_ready,
            contextlib.AsyncExitStack() as stack,
        ):
            place = Place(settings, sockets.listeners, stop)
            runtime = await _open_runtime(stack, place, on_waiting=say_ready)
            if runtime is None:
                return 0
            drain = Drain(settings.drain_delay_s, settings.drain_timeout_s, is_shared=True)
            hosting = _host(runtime, sockets.listeners, drain)
            async with _kept_up(runtime):
                return await serve_app(hosting, stop, on_listening=say_ready)


async def _serve_with_workers(settings: Settings, listeners: Listeners) -> int:
    stop = StopSignal()
    with stop_on_signals(stop), contextlib.closing(listeners):
        async with contextlib.AsyncExitStack() as stack:
            runtime = await _open_runtime(stack, Place(settings, listeners, stop))
            if runtime is None:
                return 0
            await require_no_demo(runtime.store)
        crew = Crew(
            workers=settings.workers,
            command=(sys.executable, "-m", "token_server", *sys.argv[1:]),
            environ=os.environ,
            drain_timeout_s=settings.drain_timeout_s,
            drain_delay_s=settings.drain_delay_s,
        )
        return await supervise(
            crew, listeners, stop, on_listening=_log_started(settings, listeners)
        )


def _log_started(settings: Settings, listeners: Listeners) -> Callable[[], None]:
    facts = {
        "issuer": settings.issuer,
        "bind": listeners.public_address,
        "management_bind": listeners.management_address,
        "database": "sqlite" if is_sqlite(settings) else "postgresql",
        "workers": settings.workers,
        "version": package_version(),
    }
    return lambda: _log.info("server_started", **facts)
