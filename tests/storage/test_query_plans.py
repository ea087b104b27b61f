"""Every statement finds its rows through an index that schema.py names, on both engines.

The planner is asked about the statements that the storage functions really send.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.storage.test_api_keys import new_key
from tests.storage.test_families import Login, start_login
from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import log_in, new_family, new_secret, new_user, run_in_block
from token_server.core.throttle import Bucket, Budget, Take
from token_server.records import AuditEvent, AuditEventType, Secret
from token_server.storage import (
    api_keys,
    audit,
    clients,
    families,
    family_versions,
    meta,
    status,
    throttle,
    users,
)
from token_server.storage.backend import Asked
from token_server.storage.engine import Store
from token_server.storage.family_sweeps import Sweep, begin_sweep
from token_server.storage.revocations import (
    DeniedToken,
    EndedSession,
    Revocation,
    RevokedNumber,
    revoke,
)
from token_server.storage.rotation import rotation_statement
from token_server.storage.status import Revoked
from token_server.storage.steps import Dialect, Steps
from token_server.storage.token_facts import ENABLED_ACTORS, FACTS, PRINCIPAL, actor_values

TAKE = Take("group", (Bucket("account", Budget(5, 10)),), NOW)
Call = Callable[[AsyncConnection, Login], Awaitable[object]]

EVENT = AuditEvent(AuditEventType.TOKEN_REVOKED, at=NOW, actor="operator")


def rotation(login: Login, dialect: Dialect) -> Steps[None]:
    yield rotation_statement(dialect, [login.entry()])


def revocations_of(login: Login) -> list[Revocation]:
    return [
        EndedSession(login.family.sid, login.user.user_id, EVENT),
        RevokedNumber(1, EVENT),
        DeniedToken("jti", NOW, EVENT),
    ]


def look_ups(login: Login, dialect: Dialect) -> Steps[None]:
    """As each engine gets them."""
    found_by = {"sid": login.family.sid, "subject": login.user.user_id}
    facts = {"client_id": "c", "jti": "jti", "number": 1, **found_by}
    asked: list[Asked] = [
        (FACTS, facts),
        (ENABLED_ACTORS, actor_values((login.client.client_id, "nobody"))),
        (PRINCIPAL, found_by),
        (families.BY_ID, {"family_id": login.family.family_id}),
        (users.BY_ID, {"user_id": login.user.user_id}),
        (users.BY_EMAIL, {"email_canonical": login.user.email_canonical}),
    ]
    for query, values in asked:
        yield query.bind(dialect, values) if dialect == "sqlite" else query.bind_all([values] * 9)


NUMBERS = api_keys.KeyNumbers(1, NOW, None, is_revoked=False, floor=0)

CALLS: dict[str, Call] = {
    "find_key": lambda c, _: api_keys.find_key(c, "key_1"),
    "find_account_policy": lambda c, _: api_keys.find_account_policy(c),
    "list_keys": lambda c, x: api_keys.list_keys(c, x.user.user_id, NOW, 20),
    "count_keys": lambda c, x: api_keys.count_keys(c, x.user.user_id, NOW),
    "insert_key": lambda c, x: api_keys.insert_key(c, new_key(x.user), 20),
    "revoke_key": lambda c, x: api_keys.revoke_key(c, "key_1", x.user.user_id, NOW),
    "revoke_keys_of_user": lambda c, x: api_keys.revoke_keys_of_user(c, x.user.user_id, NOW),
    "end_tokens_of_user": lambda c, x: api_keys.end_tokens_of_user(c, x.user.user_id, NOW),
    "read_numbers": lambda c, _: api_keys.read_numbers(c, "key_1"),
    "take_number": lambda c, x: api_keys.take_number(c, new_key(x.user), None, NUMBERS),
    "stamp_key_use": lambda c, _: api_keys.stamp_key_use(c, {"key_1": NOW}),
    "prune_keys": lambda c, _: api_keys.prune_keys(c, NOW, 10),
    "find_user": lambda c, x: users.find_user(c, x.user.user_id),
    "find_user_by_email": lambda c, x: users.find_user_by_email(c, x.user.email_canonical),
    "list_users": lambda c, _: users.list_users(c, "usr_", 10),
    "insert_user": lambda c, _: users.insert_user(c, new_user()),
    "change_password": lambda c, x: users.change_password(c, x.user.user_id, Secret("$"), NOW),
    "set_user_active": lambda c, x: users.set_user_active(c, x.user.user_id, False, NOW),
    "rehash_password": lambda c, x: users.rehash_password(c, x.user.user_id, 0, Secret("$")),
    "find_client": lambda c, x: clients.find_client(c, x.client.client_id),
    "list_clients": lambda c, _: clients.list_clients(c, "", 10),
    "set_client_enabled": lambda c, x: clients.set_client_enabled(c, x.client.client_id, True, NOW),
    "lock_client": lambda c, x: clients.lock_client(c, x.client.client_id),
    "change_client": lambda c, x: clients.change_client(c, x.client),
    "delete_client": lambda c, x: clients.delete_client(c, x.client.client_id),
    "insert_secret": lambda c, x: clients.insert_secret(c, x.client.client_id, new_secret()),
    "delete_secret": lambda c, x: clients.delete_secret(c, x.client.client_id, "cs_1"),
    "expire_other_secrets": lambda c, x: clients.expire_other_secrets(
        c, x.client.client_id, "cs_1", NOW
    ),
    "find_family": lambda c, x: families.find_family(c, x.family.family_id),
    "begin_sessions": lambda c, x: log_in(c, new_family(x.client, x.user)),
    "list_families": lambda c, x: families.list_families(c, user_id=x.user.user_id, now=NOW),
    "find_session": lambda c, x: families.find_session(c, x.family.sid),
    "revoke": lambda c, x: run_in_block(c, partial(revoke, revocations_of(x))),
    "renew_family": lambda c, x: families.renew_family(
        c, x.family.sid, families.RenewedFamily(bytes(16), 1), NOW
    ),
    "revoke_family": lambda c, x: families.revoke_family(c, x.family.family_id, "x", NOW),
    "revoke_families_of_user": lambda c, x: families.revoke_families_of_user(
        c, x.user.user_id, "x", NOW
    ),
    "sweep_sessions_of_client": lambda c, x: begin_sweep(
        c, Sweep("client", x.client.client_id, "x", NOW), 10
    ),
    "sweep_sessions_of_user": lambda c, x: begin_sweep(
        c, Sweep("user", x.user.user_id, "x", NOW), 10
    ),
    "sweep_all_sessions": lambda c, _: begin_sweep(c, Sweep("everybody", "", "x", NOW), 10),
    "look_ups": lambda c, x: run_in_block(c, partial(look_ups, x)),
    "note_replay": lambda c, x: families.note_replay(c, x.family.family_id, 0),
    "prune_families": lambda c, _: families.prune_families(c, NOW, 10),
    "rotate_families": lambda c, x: run_in_block(c, partial(rotation, x)),
    "revoke_families": lambda c, _: family_versions.revoke_families(
        c, family_versions.Sweep(2, "x", NOW), 0, 10
    ),
    "needed_until": lambda c, _: family_versions.needed_until(c, 2, NOW),
    "count_live_families": lambda c, _: family_versions.count_live_families(c, NOW),
    "list_events": lambda c, _: audit.list_events(c, 5, 10),
    "prune_events": lambda c, _: audit.prune_events(c, NOW, 10),
    "apply_steps": lambda c, _: run_in_block(c, partial(throttle.apply_steps, [TAKE])),
    "prune_throttles": lambda c, _: throttle.prune_throttles(c, NOW, 10),
    "revoked_sessions_after": lambda c, _: status.revoked_after(c, "s", Revoked(NOW, 1), 10),
    "revoked_machine_tokens_after": lambda c, _: status.revoked_after(c, "m", Revoked(NOW, 1), 10),
    "sessions_revoked_since": lambda c, _: status.revoked_since(c, "s", NOW),
    "machine_tokens_revoked_since": lambda c, _: status.revoked_since(c, "m", NOW),
    "session_numbers": lambda c, _: status.session_numbers(c),
    "prune_denied": lambda c, _: status.prune_denied(c, NOW, 10),
    "meta.get": lambda c, _: meta.get(c, "epoch"),
    "meta.set": lambda c, _: meta.set(c, "epoch", "0"),
}


async def statements_of(conn: AsyncConnection, call: Call, login: Login) -> list[tuple[str, Any]]:
    sent: list[tuple[str, Any]] = []
    assert conn.sync_connection is not None

    def record(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        sent.append((statement, values))

    event.listen(conn.sync_connection, "before_cursor_execute", record)
    await call(conn, login)
    event.remove(conn.sync_connection, "before_cursor_execute", record)
    return sent


@pytest.mark.parametrize("name", CALLS)
async def test_statement_searches_through_an_index(store: Store, name: str) -> None:
    """A table scan would make one login slower with every other one."""
    login = await start_login(store)
    plans: list[str] = []
    async with store.write() as conn:
        for statement, values in await statements_of(conn, CALLS[name], login):
            if store.dialect == "sqlite":
                plan = f"EXPLAIN QUERY PLAN {statement}"
                plans += list((await conn.exec_driver_sql(plan, values)).scalars("detail"))
            else:
                # Small tables are cheaper to scan: ask whether an index could serve at all.
                await conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
                rows_of_plan = await conn.exec_driver_sql(f"EXPLAIN {statement}", values)
                plans += [str(line) for line in rows_of_plan.scalars()]
    assert plans or name in {"insert_user", "meta.set"}
    scans = [line for line in plans if line.startswith("SCAN ") or "Seq Scan" in line]
    # The entries of a batch, a VALUES list and `SELECT 1` are no tables.
    scans = [x for x in scans if x not in {"SCAN e", "SCAN one"} and "CONSTANT ROW" not in x]
    assert scans == [], plans
