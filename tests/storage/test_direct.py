"""A statement that is a transaction of its own: durable, whole, and never out of its turn."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.test_families import start_login, stored
from token_server.errors import UnavailableError
from token_server.storage import families, users
from token_server.storage.direct import DirectReader, DirectWriter
from token_server.storage.engine import Store
from token_server.storage.errors import StorageFailedError
from token_server.storage.rotation import rotate_families
from token_server.storage.steps import Row, Steps

SETS_LABEL = {
    "sqlite": "UPDATE families SET label = ? RETURNING label",
    "postgresql": "UPDATE families SET label = $1 RETURNING label",
}


def step(statement: str) -> Steps[list[Row]]:
    rows = yield statement, ()
    return rows


async def test_rows_come_back_and_the_change_stays(store: Store) -> None:
    """RETURNING is read to its end, and another connection sees the change."""
    login = await start_login(store)

    rows = await store.write_alone(SETS_LABEL[store.dialect], ["phone"])

    assert [tuple(row) for row in rows] == [("phone",)]
    after = await stored(store, login.family.family_id)
    assert after is not None
    assert after.label == "phone"


async def test_refused_statement_changes_nothing_and_the_next_one_works(store: Store) -> None:
    """A value that a constraint refuses: no row changes, no value is told, and a rotation after
    it finds a whole connection."""
    login = await start_login(store)
    secret = "a secret in a row"
    statement = {
        "sqlite": "UPDATE families SET sid = ?, generation = NULL",
        "postgresql": "UPDATE families SET sid = $1, generation = NULL",
    }[store.dialect]

    with pytest.raises(StorageFailedError) as refused:
        await store.write_alone(statement, [secret])

    assert secret not in str(refused.value)
    assert await stored(store, login.family.family_id) == login.family
    assert len(await rotate_families(store, [login.entry()])) == 1


async def test_cancelled_caller_keeps_the_turn_until_the_thread_is_done(tmp_path: Path) -> None:
    """Otherwise the next writer would meet a transaction that is still open."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> int:
        begun.set()
        go_on.wait(10)
        return 1

    writer = DirectWriter(connecting_to(tmp_path, hold))
    await writer.run(step("CREATE TABLE t (n)"))
    task = asyncio.create_task(writer.run(step("INSERT INTO t VALUES (hold())")))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await writer.run(step("UPDATE t SET n = 2 RETURNING n")) == [(2,)]
    await writer.close()


async def test_look_ups_at_once_get_their_own_rows(store: Store) -> None:
    """They share hops: each gets its own answer, an unknown id none."""
    logins = [await start_login(store) for _ in range(5)]
    ids = [login.family.family_id for login in logins for _ in range(20)]

    found = await asyncio.gather(
        *(store.read_alone((families.BY_ID, {"family_id": one})) for one in [*ids, bytes(16)])
    )

    assert [families.family_of(rows[0]).family_id for (rows,) in found[:-1]] == ids
    assert found[-1] == [[]]


async def test_look_up_that_fails_takes_no_other_with_it(store: Store) -> None:
    """They share a hop or a statement: what no database can hold fails alone."""
    login = await start_login(store)
    emails = [login.user.email_canonical, "\ud800", login.user.email_canonical]

    found = await asyncio.gather(
        *(store.read_alone((users.BY_EMAIL, {"email_canonical": email})) for email in emails),
        return_exceptions=True,
    )

    assert isinstance(found[1], Exception)
    for answer in (found[0], found[2]):
        assert not isinstance(answer, BaseException)
        assert users.user_of(answer[0][0]).user_id == login.user.user_id


async def test_look_up_sees_what_was_committed_a_moment_ago(store: Store) -> None:
    """No connection of a reader keeps an old picture of the database."""
    login = await start_login(store)
    asked = (families.BY_ID, {"family_id": login.family.family_id})
    await store.read_alone(asked)
    for generation in range(3):
        await rotate_families(store, [login.entry(generation=generation)])
        ((row,),) = await store.read_alone(asked)
        assert families.family_of(row).generation == generation + 1


async def test_look_up_on_a_closed_store_is_not_now(store: Store) -> None:
    """Like every other read: the caller may come again, at another instance."""
    await store.close()

    with pytest.raises(UnavailableError):
        await store.read_alone((families.BY_ID, {"family_id": bytes(16)}))


async def test_cancelled_look_up_leaves_the_others_theirs(store: Store) -> None:
    """A client that goes away takes nobody's answer with it."""
    login = await start_login(store)
    asked = (families.BY_ID, {"family_id": login.family.family_id})
    tasks = [asyncio.create_task(store.read_alone(asked)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert all(isinstance(answer, list) and len(answer[0]) == 1 for answer in answers[1::2])


async def test_failing_look_up_fails_alone(tmp_path: Path) -> None:
    """The others of its batch are answered, and so is the next one, over a new connection."""
    reader = DirectReader(connecting_to(tmp_path))

    found = await asyncio.gather(
        reader.run([("SELECT 1", ())]),
        reader.run([("SELECT no_such_column", ())]),
        reader.run([("SELECT 2", ()), ("SELECT 3", ())]),
        return_exceptions=True,
    )

    assert found[0] == [[(1,)]]
    assert isinstance(found[1], sqlite3.OperationalError)
    assert found[2] == [[(2,)], [(3,)]]
    assert await reader.run([("SELECT 4", ())]) == [[(4,)]]
    await reader.close()


async def test_every_look_up_is_answered_at_the_end(tmp_path: Path) -> None:
    """Whoever still waits when the reader is closed is told so, and waits no longer."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> int:
        begun.set()
        go_on.wait(10)
        return 1

    reader = DirectReader(connecting_to(tmp_path, hold))
    held = asyncio.create_task(reader.run([("SELECT hold()", ())]))
    await asyncio.to_thread(begun.wait, 10)
    late = asyncio.create_task(reader.run([("SELECT 2", ())]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(reader.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing

    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(held, late, return_exceptions=True)
    assert outcomes[0] == [[(1,)]]
    assert outcomes[1] == [[(2,)]] or isinstance(outcomes[1], UnavailableError)
    with pytest.raises(UnavailableError):
        await reader.run([("SELECT 3", ())])


def connecting_to(
    directory: Path, hold: Callable[[], int] = lambda: 0
) -> Callable[[], sqlite3.Connection]:
    """As the backend connects, to a database of its own; `hold()` is a function in SQL."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            directory / "t.db", isolation_level=None, check_same_thread=False
        )
        connection.create_function("hold", 0, hold)
        return connection

    return connect
