"""Changing what a registered client may do: its grants, scopes and audiences.

The whole of the new registration is judged as if it were made anew. Sessions and tokens that the
client has go on as they were granted; a running server notices within the bound of its client
cache. Secrets, disabling and deleting are services/clients.py's.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from token_server.core.client_policy import RESERVED_CLIENT_IDS, client_problems
from token_server.errors import OperatorError
from token_server.records import AuditEvent, AuditEventType, Client
from token_server.runtime import Runtime
from token_server.services.clients import show_client
from token_server.storage import audit, clients


@dataclass(frozen=True, slots=True)
class ClientChanges:
    """What is to be from now on; None leaves it as it is, an empty tuple takes all away."""

    name: str | None = None
    grant_types: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    audiences: tuple[str, ...] | None = None
    default_audience: tuple[str, ...] | None = None
    serves_audiences: tuple[str, ...] | None = None
    exchange_audiences: tuple[str, ...] | None = None
    is_revocable: bool | None = None


async def change_client(runtime: Runtime, client_id: str, changes: ClientChanges) -> Client:
    """The client as it is afterwards; nothing is written when nothing changes.

    OperatorError lists every problem of the registration as it would be (exit code 2), or says
    that there is no such client (3).
    """
    problems: list[str] = []
    event = None
    async with runtime.store.write() as connection:
        before = await clients.lock_client(connection, client_id)
        if before is not None:
            after = _changed(before, changes, runtime.clock.now())
            changed = _changed_names(before, after)
            problems = _problems(after, changed)
            if changed and not problems:
                await clients.change_client(connection, after)
                event = _event(after, changed)
                await audit.insert_events(connection, [event])
    if problems:
        raise OperatorError(f"The client was not changed: {'; '.join(problems)}.", exit_code=2)
    if event is not None:
        runtime.audit.log(event)
    return await show_client(runtime, client_id)


def _changed(client: Client, changes: ClientChanges, now: int) -> Client:
    given: dict[str, Any] = {}
    for field in fields(changes):
        value = getattr(changes, field.name)
        if field.name == "grant_types" and value is not None:
            value = frozenset(value)
        elif isinstance(value, tuple):
            value = tuple(dict.fromkeys(value))
        if value is not None:
            given[field.name] = value
    return replace(client, **given, updated_at=now)


def _problems(client: Client, changed: list[str]) -> list[str]:
    problems = client_problems(client, is_new=False)
    if client.client_id in RESERVED_CLIENT_IDS and set(changed) - {"scopes"}:
        # Its grants and audiences are those of the account API; its scopes are the operator's
        # word on what logins there, and API keys, may be given.
        problems.append(f'of the built-in client "{client.client_id}" only --scope can be changed')
    return problems


def _changed_names(before: Client, after: Client) -> list[str]:
    names = (field.name for field in fields(ClientChanges))
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _event(client: Client, changed: list[str]) -> AuditEvent:
    return AuditEvent(
        event=AuditEventType.CLIENT_CHANGED,
        at=client.updated_at,
        actor="operator",
        subject=client.client_id,
        client_id=client.client_id,
        details={"changed": " ".join(changed)},
    )
