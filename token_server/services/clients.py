"""Registering clients and changing them; authenticating one is client_authentication.py's.

A secret is made here, leaves once, and is stored as a digest only. Several may live at a time,
so that a client moves to the new one without an outage. Disabling and deleting end its sessions, a
great many of them in batches. A running server notices within the bound of its cache.
"""

from dataclasses import dataclass, replace

from token_server.core.client_policy import RESERVED_CLIENT_IDS, client_problems
from token_server.core.identifiers import SECRET_ID_BYTES, name_problem, new_secret_id
from token_server.core.opaque import CLIENT_SECRET_PREFIX, RANDOM_BYTES, digest, format_opaque
from token_server.errors import OperatorError
from token_server.records import AuditEvent, AuditEventType, Client, ClientSecret, Secret
from token_server.runtime import Runtime
from token_server.services.session_sweeps import BATCH, finish_sweep, sweep_sessions
from token_server.storage import audit, clients
from token_server.storage.errors import AlreadyExistsError
from token_server.storage.family_sweeps import Sweep, begin_sweep

PAGE = 100
MAX_SECRETS = 10  # each failing authentication compares with all of them


@dataclass(frozen=True, slots=True)
class NewClient:
    """A registration; None means the server's setting, an empty name the client id."""

    client_id: str
    grant_types: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    default_audience: tuple[str, ...] = ()
    name: str = ""
    is_public: bool = False
    access_token_ttl_s: int | None = None
    access_token_typ: str | None = None
    refresh_idle_ttl_s: int | None = None
    refresh_absolute_ttl_s: int | None = None
    refresh_replay_window_s: int | None = None
    shadow_limit: int | None = None
    serves_audiences: tuple[str, ...] = ()
    exchange_audiences: tuple[str, ...] = ()
    is_revocable: bool = False


@dataclass(frozen=True, slots=True)
class SecretRotation:
    """A new secret, and what becomes of the others: None leaves them as they are."""

    label: str
    expires_in_s: int | None = None
    expire_others_in_s: int | None = None  # 0: at once


async def add_client(runtime: Runtime, new: NewClient) -> tuple[Client, Secret[str] | None]:
    """Register a client; the secret (None for a public client) is readable only here.

    OperatorError lists every problem, or says that the id is taken.
    """
    now = runtime.clock.now()
    secret, record = (None, None) if new.is_public else _make_secret(runtime, "first", now, None)
    client = Client(
        client_id=new.client_id,
        name=new.name or new.client_id,
        is_public=new.is_public,
        is_enabled=True,
        grant_types=frozenset(new.grant_types),
        scopes=tuple(dict.fromkeys(new.scopes)),
        audiences=tuple(dict.fromkeys(new.audiences)),
        default_audience=tuple(dict.fromkeys(new.default_audience)),
        access_token_ttl_s=new.access_token_ttl_s,
        access_token_typ=new.access_token_typ,
        refresh_idle_ttl_s=new.refresh_idle_ttl_s,
        refresh_absolute_ttl_s=new.refresh_absolute_ttl_s,
        refresh_replay_window_s=new.refresh_replay_window_s,
        shadow_limit=new.shadow_limit,
        created_at=now,
        updated_at=now,
        secrets=() if record is None else (record,),
        serves_audiences=tuple(dict.fromkeys(new.serves_audiences)),
        exchange_audiences=tuple(dict.fromkeys(new.exchange_audiences)),
        is_revocable=new.is_revocable,
    )
    if problems := client_problems(client):
        raise OperatorError(f"The client was not added: {'; '.join(problems)}.", exit_code=2)
    event = _event(AuditEventType.CLIENT_CREATED, client.client_id, now)
    # Of a namesake whose deletion was broken off: they must not come to life again.
    await _sweep(runtime, client.client_id, "client_deleted")
    try:
        async with runtime.store.write() as connection:
            await clients.insert_client(connection, client)
            await audit.insert_events(connection, [event])
    except AlreadyExistsError:
        raise OperatorError(
            "A client with this id exists already: choose another id, or change it with"
            " `token-server client rotate-secret`, `disable` or `delete`.",
            exit_code=4,
        ) from None
    runtime.audit.log(event)
    return client, secret


async def list_clients(
    runtime: Runtime, after: str | None = None, limit: int = PAGE
) -> list[Client]:
    """The next `limit` clients in the order of their ids, after the id `after`."""
    async with runtime.store.read() as connection:
        return await clients.list_clients(connection, after, limit)


async def show_client(runtime: Runtime, client_id: str) -> Client:
    """The client of this id; OperatorError (exit code 3) when there is none."""
    async with runtime.store.read() as connection:
        client = await clients.find_client(connection, client_id)
    if client is None:
        raise _unknown_client()
    return client


async def rotate_secret(
    runtime: Runtime, client_id: str, rotation: SecretRotation
) -> tuple[ClientSecret, Secret[str]]:
    """Give the client one more secret; expired ones are cleared away on the occasion."""
    client = await show_client(runtime, client_id)
    now = runtime.clock.now()
    live = [s for s in client.secrets if s.expires_at is None or now < s.expires_at]
    problems = _rotation_problems(client, rotation, len(live))
    if problems:
        raise OperatorError(f"No secret was made: {'; '.join(problems)}.", exit_code=2)
    expires_at = None if rotation.expires_in_s is None else now + rotation.expires_in_s
    secret, record = _make_secret(runtime, rotation.label, now, expires_at)
    event = _event(AuditEventType.CLIENT_SECRET_CREATED, client_id, now, secret_id=record.secret_id)
    async with runtime.store.write() as connection:
        is_added = await clients.insert_secret(connection, client_id, record)
        if is_added:
            if rotation.expire_others_in_s is not None:
                await clients.expire_other_secrets(
                    connection, client_id, record.secret_id, now + rotation.expire_others_in_s
                )
            for old in client.secrets:
                if old not in live:
                    await clients.delete_secret(connection, client_id, old.secret_id)
            await audit.insert_events(connection, [event])
    if not is_added:
        raise _unknown_client()
    runtime.audit.log(event)
    return record, secret


async def revoke_secret(runtime: Runtime, client_id: str, secret_id: str) -> Client:
    """Make one secret worthless at once; the client as it is afterwards."""
    await show_client(runtime, client_id)
    now = runtime.clock.now()
    event = _event(AuditEventType.CLIENT_SECRET_REVOKED, client_id, now, secret_id=secret_id)
    async with runtime.store.write() as connection:
        is_revoked = await clients.delete_secret(connection, client_id, secret_id)
        if is_revoked:
            await audit.insert_events(connection, [event])
    if not is_revoked:
        raise OperatorError(
            "The client has no such secret: `token-server client show` lists their ids.",
            exit_code=3,
        )
    runtime.audit.log(event)
    return await show_client(runtime, client_id)


async def disable_client(runtime: Runtime, client_id: str) -> Client:
    """Refuse the client from now on and end all its sessions; harmless when repeated."""
    now, event, progress = runtime.clock.now(), None, None
    async with runtime.store.write() as connection:
        # The client's row first: its lock orders this against a login that is about to commit.
        if await clients.set_client_enabled(connection, client_id, False, now):
            sweep = Sweep("client", client_id, "client_disabled", now)
            progress = await begin_sweep(connection, sweep, BATCH)
            event = _event(
                AuditEventType.CLIENT_DISABLED, client_id, now, sessions_ended=progress.ended
            )
            await audit.insert_events(connection, [event])
    if event is None or progress is None:
        raise _unknown_client()
    runtime.audit.log(event)
    await finish_sweep(runtime, progress, _ended_event(progress.sweep))
    return await show_client(runtime, client_id)


async def enable_client(runtime: Runtime, client_id: str) -> Client:
    """Accept a disabled client again, with its secrets as they were; sessions stay ended."""
    client = await show_client(runtime, client_id)
    if client.is_enabled:
        return client
    # Left over if the disabling was broken off: they must not come to life again.
    await _sweep(runtime, client_id, "client_disabled")
    now = runtime.clock.now()
    event = _event(AuditEventType.CLIENT_ENABLED, client_id, now)
    async with runtime.store.write() as connection:
        is_enabled = await clients.set_client_enabled(connection, client_id, True, now)
        if is_enabled:
            await audit.insert_events(connection, [event])
    if not is_enabled:
        raise _unknown_client()
    runtime.audit.log(event)
    return await show_client(runtime, client_id)


async def delete_client(runtime: Runtime, client_id: str) -> int:
    """Delete the client and its secrets and end its sessions; how many sessions ended.

    OperatorError for an unknown client, and for one that the server itself needs.
    """
    if client_id in RESERVED_CLIENT_IDS:
        raise OperatorError(
            f'The client "{client_id}" is part of the server and was not deleted:'
            " `token-server client disable` closes its door.",
            exit_code=2,
        )
    now, event, progress = runtime.clock.now(), None, None
    async with runtime.store.write() as connection:
        if await clients.delete_client(connection, client_id):
            sweep = Sweep("client", client_id, "client_deleted", now)
            progress = await begin_sweep(connection, sweep, BATCH)
            event = _event(
                AuditEventType.CLIENT_DELETED, client_id, now, sessions_ended=progress.ended
            )
            await audit.insert_events(connection, [event])
    if event is None or progress is None:
        raise _unknown_client()
    runtime.audit.log(event)
    return progress.ended + await finish_sweep(runtime, progress, _ended_event(progress.sweep))


async def end_client_sessions(runtime: Runtime, client_id: str) -> int:
    """End all sessions that the client has now, and leave it as it is; how many ended."""
    await show_client(runtime, client_id)
    return await _sweep(runtime, client_id, "ended_by_operator")


async def _sweep(runtime: Runtime, client_id: str, reason: str) -> int:
    sweep = Sweep("client", client_id, reason, runtime.clock.now())
    return await sweep_sessions(runtime, sweep, _ended_event(sweep))


def _ended_event(sweep: Sweep) -> AuditEvent:
    event = _event(AuditEventType.SESSION_REVOKED, sweep.owner_id, sweep.now)
    return replace(event, reason=sweep.reason)


def _make_secret(
    runtime: Runtime, label: str, now: int, expires_at: int | None
) -> tuple[Secret[str], ClientSecret]:
    text = format_opaque(CLIENT_SECRET_PREFIX, runtime.entropy.token_bytes(RANDOM_BYTES))
    record = ClientSecret(
        secret_id=new_secret_id(runtime.entropy.token_bytes(SECRET_ID_BYTES)),
        secret_digest=digest(text),
        label=label,
        created_at=now,
        expires_at=expires_at,
        last_used_at=None,
    )
    return Secret(text), record


def _rotation_problems(client: Client, rotation: SecretRotation, live: int) -> list[str]:
    problems = []
    if client.is_public:
        problems.append("a public client has no secret")
    if live >= MAX_SECRETS:
        problems.append(f"the client has {live} live secrets: revoke one first (--revoke)")
    if problem := name_problem(rotation.label):
        problems.append(f"of the label: {problem}")
    if rotation.expires_in_s is not None and rotation.expires_in_s < 1:
        problems.append("the new secret must live for at least a second")
    return problems


def _event(event: AuditEventType, client_id: str, at: int, **details: str | int) -> AuditEvent:
    return AuditEvent(
        event=event,
        at=at,
        actor="operator",
        subject=client_id,
        client_id=client_id,
        details=details,
    )


def _unknown_client() -> OperatorError:
    return OperatorError(
        "There is no such client: `token-server client list` shows their ids.", exit_code=3
    )
