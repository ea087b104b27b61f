"""Several who change the same keys at once, and an instance that cannot follow: real processes on
real stores (I3, I5)."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.faults.key_servers import (
    POLL_S,
    Seen,
    Watcher,
    add_client,
    dated_key,
    installation_of,
    log_events,
    stored_keys,
)
from tests.support.databases import run_apart
from tests.support.process import Installation, ServerProcess, running_processes, start_server

LEAD_S = 5
STUCK_LEAD_S = 12  # signing stops after half of it; the marks of I4 last a quarter at least


def rotate_at_once(installation: Installation, count: int) -> list[dict[str, object]]:
    """What `count` commands say that were started together."""
    command = [sys.executable, "-m", "token_server", "keys", "rotate", "--json"]
    running = [
        subprocess.Popen(
            command,
            cwd=installation.directory,
            env=installation.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    answers = [process.communicate(timeout=100) for process in running]
    assert [process.returncode for process in running] == [0] * count, answers
    return [json.loads(out) for out, _ in answers]


@pytest.mark.parametrize(
    ("engine", "key_store"), [("sqlite", "directory"), ("postgres", "database")]
)
def test_of_rotators_at_once_one_wins(
    engine: str, key_store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """230: of two commands at the same moment one rotates and the other says that a rotation is
    under way: one more key, one date, no two keys that sign."""
    database_url = str(request.getfixturevalue(f"{engine}_url"))
    installation = installation_of(tmp_path, database_url, key_store, KEY_LEAD="60s")
    installation.run_cli("keys", "init")
    answers = rotate_at_once(installation, 2)
    assert sorted(bool(answer["changed"]) for answer in answers) == [False, True]
    for answer in answers:
        assert answer["changed"] or "under way" in str(answer["reason"])
    keys = stored_keys(installation)
    assert [key["state"] for key in keys].count("active") == 1
    assert sum(key["activate_at"] is not None for key in keys) == 2
    assert len(keys) == 3


def test_servers_and_a_command_that_are_due_together_rotate_once(
    postgres_url: str, tmp_path: Path
) -> None:
    """230: two servers find the rotation due in the same half second, and a command comes too:
    one change, and both serve it."""
    installation = installation_of(
        tmp_path, postgres_url, "directory", KEY_LEAD="54s", KEY_ROTATE_EVERY="60s"
    )
    with running_processes(installation, 2) as servers:
        began = time.monotonic()
        while time.monotonic() < began + 30 and len(stored_files(installation)) < 3:
            time.sleep(0.05)
        answers = rotate_at_once(installation, 1)
        failed = [event for server in servers for event in log_events(server, "key_upkeep_failed")]
    assert not answers[0]["changed"]
    assert failed == []
    count = "SELECT count(*) FROM audit_events WHERE event = 'key.scheduled'"
    assert query(postgres_url, count) == 1
    assert len(stored_files(installation)) == 3


def stored_files(installation: Installation) -> list[Path]:
    return list((installation.directory / "keys").glob("*.pem"))


def test_workers_switch_at_the_instant_in_the_manifest(postgres_url: str, tmp_path: Path) -> None:
    """232: whichever worker answers, a token's key follows from its `iat` alone: the new key from
    its date on, not before, however each worker's reload falls."""
    installation = installation_of(
        tmp_path, postgres_url, "directory", KEY_LEAD=f"{LEAD_S}s", WORKERS="2"
    )
    secret = add_client(installation)
    with running_processes(installation) as (server,):
        with Watcher(server, secret) as watcher:
            before = watcher.look()
        kid, at = dated_key(installation.run_cli("keys", "rotate"))
        seen: list[Seen] = []
        while time.time() < at + 1:
            with Watcher(server, secret) as watcher:  # anew: the kernel chooses a worker
                seen.append(watcher.look())
            time.sleep(POLL_S)
    assert {one.status for one in seen} == {200}
    assert all(one.kid == (kid if one.issued_at >= at else before.kid) for one in seen)
    assert all(one.kid in one.published for one in seen)
    assert {one.kid for one in seen} == {kid, before.kid}


# ---- an instance that cannot reload ---------------------------------------------------------


def query(url: str, statement: str) -> object:
    """The first value of the answer, if there is one."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return run_apart(run())


@contextlib.contextmanager
def second_role(postgres_url: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Another role on the same tables: its URL, and a way to run SQL as the owner."""
    role = f"ts_stuck_{os.getpid()}"

    def execute(statement: str) -> None:
        query(postgres_url, statement)

    execute(f"CREATE ROLE {role} LOGIN PASSWORD 'stuck'")
    try:
        execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        url = make_url(postgres_url).set(username=role, password="stuck")
        yield url.render_as_string(hide_password=False), execute
    finally:
        execute(f"DROP OWNED BY {role}")
        execute(f"DROP ROLE {role}")


def check_stuck(
    installation: Installation, healthy: Watcher, stuck: Watcher, heal: Callable[[], None]
) -> None:
    """A rotation while `stuck` cannot reload, from its last good reload to its recovery."""
    old = stuck.look().kid
    assert old is not None
    kid, at = dated_key(installation.run_cli("keys", "rotate"))
    stopped = stuck.until(lambda seen: seen.status != 200, "the stuck one still signs")
    assert stopped.status == 503
    assert stopped.at < at, "the other instance may sign with its key from then on"
    # Never once does it sign with what it does not publish, or with the key it cannot know.
    assert {one.kid for one in stuck.seen} == {old, None}
    assert all(one.kid is None or one.kid in one.published for one in stuck.seen)
    switched = healthy.until(lambda seen: seen.kid == kid, "the healthy one does not switch")
    assert old in switched.published
    still = stuck.look()
    assert (still.status, still.is_ready) == (503, False)
    assert still.published == stopped.published
    heal()
    stuck.until(lambda seen: seen.kid == kid, "the stuck one does not recover")
    stuck.until(lambda seen: seen.is_ready, "it is not ready again")
    assert stuck.look().published == healthy.look().published


def test_instance_cut_off_from_the_keys_in_the_database_stops_signing(
    postgres_url: str, tmp_path: Path
) -> None:
    """I3: one of two instances loses the right to read the keys: it goes on with those in memory
    for half of KEY_LEAD, then neither signs nor is ready, and comes back by itself."""
    installation = installation_of(tmp_path, postgres_url, "database", KEY_LEAD=f"{STUCK_LEAD_S}s")
    secret = add_client(installation)
    healthy = start_server(installation, name="healthy")
    with second_role(postgres_url) as (url, execute), stopping(healthy):
        role = make_url(url).username
        stuck = start_server(Installation(tmp_path, url, installation.overrides), name="stuck")
        with stopping(stuck), Watcher(healthy, secret) as one, Watcher(stuck, secret) as other:
            assert other.look().status == 200
            execute(f"REVOKE SELECT ON keyring, signing_keys FROM {role}")  # noqa: S608 - our name

            def heal() -> None:
                execute(f"GRANT SELECT ON keyring, signing_keys TO {role}")

            check_stuck(installation, one, other, heal)


def test_instance_cut_off_from_the_key_directory_stops_signing(
    postgres_url: str, tmp_path: Path
) -> None:
    """I3: the same with files, for an instance whose mount of the key directory is gone."""
    wrapper = ["unshare", "--mount", "--propagation", "private"]
    if (
        shutil.which("nsenter") is None
        or subprocess.run([*wrapper, "true"], check=False).returncode
    ):
        pytest.skip("needs the right to make mount namespaces (root)")
    installation = installation_of(tmp_path, postgres_url, "directory", KEY_LEAD=f"{STUCK_LEAD_S}s")
    keys_dir = str(tmp_path / "keys")
    secret = add_client(installation)
    healthy = start_server(installation, name="healthy")
    with stopping(healthy):
        stuck = start_server(installation, name="stuck", wrapper=wrapper)
        inside = ["nsenter", "--mount", "--target", str(stuck.pid)]
        with stopping(stuck), Watcher(healthy, secret) as one, Watcher(stuck, secret) as other:
            assert other.look().status == 200
            subprocess.run([*inside, "mount", "-t", "tmpfs", "none", keys_dir], check=True)

            def heal() -> None:
                subprocess.run([*inside, "umount", keys_dir], check=True)

            check_stuck(installation, one, other, heal)


@contextlib.contextmanager
def stopping(server: ServerProcess) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.kill()
        raise
    assert server.stop() == 0
