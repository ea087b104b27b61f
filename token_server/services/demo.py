"""The demo user and the two demo clients of `token-server dev`.

Made on the first start; their secrets stay in a file (0600) beside the database, so that the
printed commands work after a restart too. `serve` refuses a database that holds them enabled.
"""

import asyncio
import base64
import os
from pathlib import Path

import msgspec

from token_server.errors import OperatorError
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, SecretRotation, add_client, rotate_secret
from token_server.services.users import NewUser, add_user, set_password
from token_server.storage import clients, users
from token_server.storage.engine import Store

USER_EMAIL = "demo@example.com"
PUBLIC_CLIENT_ID = "demo-cli"
SERVICE_CLIENT_ID = "demo-service"
SCOPES = ("orders:read", "orders:write")
AUDIENCES = ("https://orders.example",)
PASSWORD_BYTES = 12


class Demo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file: a user who may log in at the public client, and a service."""

    user_email: str
    user_password: str
    public_client_id: str
    service_client_id: str
    service_client_secret: str

    def __repr__(self) -> str:
        return "Demo(***)"


async def ensure_demo(runtime: Runtime, file: Path) -> Demo:
    """The demo accounts, made or completed where something is missing."""
    async with runtime.store.read() as connection:
        has_user = await users.find_user_by_email(connection, USER_EMAIL) is not None
        has_public = await clients.find_client(connection, PUBLIC_CLIENT_ID) is not None
        has_service = await clients.find_client(connection, SERVICE_CLIENT_ID) is not None
    demo = await asyncio.to_thread(_read, file)
    if demo is not None and has_user and has_public and has_service:
        return demo
    # First away with the file: killed half-way, the next start makes new secrets again.
    await asyncio.to_thread(file.unlink, missing_ok=True)
    if not has_public:
        await add_client(runtime, _public_client())
    demo = Demo(
        USER_EMAIL,
        await _give_password(runtime, has_user=has_user),
        PUBLIC_CLIENT_ID,
        SERVICE_CLIENT_ID,
        await _give_secret(runtime, has_service=has_service),
    )
    await asyncio.to_thread(_write, file, demo)
    return demo


async def find_demo_traces(store: Store) -> list[str]:
    """The demo accounts of this database that still work."""
    async with store.read() as connection:
        user = await users.find_user_by_email(connection, USER_EMAIL)
        found = [
            await clients.find_client(connection, client_id)
            for client_id in (PUBLIC_CLIENT_ID, SERVICE_CLIENT_ID)
        ]
    traces = [f"client {c.client_id}" for c in found if c is not None and c.is_enabled]
    return ([f"user {USER_EMAIL}"] if user is not None and user.is_active else []) + traces


def _public_client() -> NewClient:
    return NewClient(
        client_id=PUBLIC_CLIENT_ID,
        name="Demo command line",
        is_public=True,
        grant_types=("password", "refresh_token"),
        scopes=SCOPES,
        audiences=AUDIENCES,
    )


def _service_client() -> NewClient:
    return NewClient(
        client_id=SERVICE_CLIENT_ID,
        name="Demo service",
        grant_types=("client_credentials",),
        scopes=SCOPES,
        audiences=AUDIENCES,
    )


async def _give_password(runtime: Runtime, *, has_user: bool) -> str:
    random = runtime.entropy.token_bytes(PASSWORD_BYTES)
    password = base64.urlsafe_b64encode(random).decode("ascii")
    if has_user:
        await set_password(runtime, USER_EMAIL, Secret(password))
    else:
        await add_user(runtime, NewUser(USER_EMAIL, "Demo User", Secret(password)))
    return password


async def _give_secret(runtime: Runtime, *, has_service: bool) -> str:
    if has_service:
        rotation = SecretRotation(label="demo", expire_others_in_s=0)
        _, secret = await rotate_secret(runtime, SERVICE_CLIENT_ID, rotation)
        return secret.reveal()
    _, made = await add_client(runtime, _service_client())
    if made is None:
        raise AssertionError("a confidential client has a secret")
    return made.reveal()


def _read(file: Path) -> Demo | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Demo)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise OperatorError(f"Cannot read {file}: {error.strerror}.") from error


def _write(file: Path, demo: Demo) -> None:
    temporary = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(demo), indent=2) + b"\n")
        temporary.replace(file)
    except OSError as error:
        raise OperatorError(f"Cannot write {file}: {error.strerror}.") from error
