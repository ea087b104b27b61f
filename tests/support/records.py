"""Records for tests, valid in every field; keyword arguments replace what a test is about."""

import dataclasses
import secrets
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.databases import TEST_EPOCH
from token_server.records import (
    AuditEvent,
    AuditEventType,
    Client,
    ClientSecret,
    Family,
    Secret,
    User,
)
from token_server.storage.families import NewFamily
from token_server.storage.logins import NewLogin, begin_sessions
from token_server.storage.steps import Transaction, dialect_of, fetching_in_block, run_steps

R = TypeVar("R")


def new_user(**changes: Any) -> User:
    name = secrets.token_hex(8)
    user = User(
        user_id=f"usr_{name}",
        email=f"{name}@Example.com",
        email_canonical=f"{name}@example.com",
        name="A. User",
        password_hash=Secret("$argon2id$made-up"),
        is_active=True,
        credential_version=0,
        created_at=TEST_EPOCH,
        updated_at=TEST_EPOCH,
        password_changed_at=TEST_EPOCH,
        last_login_at=None,
    )
    return dataclasses.replace(user, **changes)


def new_secret(**changes: Any) -> ClientSecret:
    secret = ClientSecret(
        secret_id=f"cs_{secrets.token_hex(8)}",
        secret_digest=secrets.token_bytes(32),
        label="first",
        created_at=TEST_EPOCH,
        expires_at=None,
        last_used_at=None,
    )
    return dataclasses.replace(secret, **changes)


def new_client(**changes: Any) -> Client:
    client = Client(
        client_id=f"client-{secrets.token_hex(6)}",
        name="A client",
        is_public=False,
        is_enabled=True,
        grant_types=frozenset({"password", "refresh_token"}),
        scopes=("orders:read", "orders:write"),
        audiences=("https://orders.example", "https://stock.example"),
        default_audience=(),
        access_token_ttl_s=None,
        access_token_typ=None,
        refresh_idle_ttl_s=None,
        refresh_absolute_ttl_s=None,
        refresh_replay_window_s=None,
        shadow_limit=None,
        created_at=TEST_EPOCH,
        updated_at=TEST_EPOCH,
    )
    return dataclasses.replace(client, **changes)


def new_family(client: Client, user: User, **changes: Any) -> NewFamily:
    family = NewFamily(
        family_id=secrets.token_bytes(16),
        sid=f"ses_{secrets.token_hex(11)}",
        client_id=client.client_id,
        user_id=user.user_id,
        scope=("orders:read",),
        audience=("https://orders.example",),
        mac_version=1,
        auth_time=TEST_EPOCH,
        created_at=TEST_EPOCH,
        idle_expires_at=TEST_EPOCH + 7 * 86400,
        absolute_expires_at=TEST_EPOCH + 30 * 86400,
        label=None,
        ip_address="192.0.2.1",
        user_agent="curl/8",
    )
    return dataclasses.replace(family, **changes)


def new_login(new: NewFamily, credential_version: int = 0) -> NewLogin:
    event = AuditEvent(
        AuditEventType.LOGIN_SUCCEEDED,
        at=new.created_at,
        actor=f"user:{new.user_id}",
        subject=new.sid,
        client_id=new.client_id,
    )
    return NewLogin(new, credential_version, event)


async def run_in_block(conn: AsyncConnection, transaction: Transaction[R]) -> R:
    """Its statements, as a part of this block."""
    return await run_steps(fetching_in_block(conn), transaction(dialect_of(conn)))


async def log_in(
    conn: AsyncConnection, new: NewFamily, credential_version: int = 0
) -> Family | None:
    """What a login does at its end; None when the user or the client may not (any more)."""
    logins = [new_login(new, credential_version)]
    (family,) = await run_in_block(conn, partial(begin_sessions, logins))
    return family
