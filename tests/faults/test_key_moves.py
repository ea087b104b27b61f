"""Real server processes with their keys in the database: first starts, several instances, moves."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.plain_http import NO_TLS
from tests.support.process import Installation, ServerProcess, running_processes, start_server
from token_server.crypto.secrets import encode_base64url

WITHIN_S = 3.0  # a look every half second, and a slow machine; less than KEY_RELOAD_INTERVAL


def master_key_line(version: int) -> str:
    return f"{version}:{encode_base64url(os.urandom(32))}\n"


@pytest.fixture
def installation(empty_database_url: str, tmp_path: Path) -> Installation:
    """Nothing but an empty database and a mounted master key."""
    master_key = tmp_path / "mounted-master-key"
    master_key.write_text(master_key_line(1))
    master_key.chmod(0o600)
    return Installation(
        tmp_path,
        empty_database_url,
        {
            "KEY_STORE": "database",
            "MASTER_KEY_FILE": str(master_key),
            "KEY_RELOAD_INTERVAL": "5",
        },
    )


def add_master_key(installation: Installation, version: int) -> None:
    with Path(installation.overrides["MASTER_KEY_FILE"]).open("a") as file:
        file.write(master_key_line(version))


async def kids(server: ServerProcess) -> list[str]:
    async with httpx.AsyncClient(base_url=server.base_url, timeout=10, verify=NO_TLS) as http:
        answer = await http.get("/.well-known/jwks.json")
    return [key["kid"] for key in answer.json()["keys"]]


async def token(server: ServerProcess, **form: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.base_url, timeout=30, verify=NO_TLS) as http:
        return await http.post("/oauth2/token", data={"client_id": "app", **form})


def add_people(installation: Installation) -> None:
    client = ("client", "add", "app", "--public", "--grant", "password", "--grant", "refresh_token")
    installation.run_cli(*client)
    user = ("user", "add", "ada@example.org", "--name", "Ada", "--password-stdin")
    installation.run_cli(*user, stdin="correct horse battery staple\n")


async def log_in(server: ServerProcess) -> str:
    answer = await token(
        server,
        grant_type="password",
        username="ada@example.org",
        password="correct horse battery staple",
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])


async def refresh(server: ServerProcess, refresh_token: str) -> httpx.Response:
    return await token(server, grant_type="refresh_token", refresh_token=refresh_token)


async def run_cli(installation: Installation, *arguments: str) -> Any:
    return await asyncio.to_thread(installation.run_cli, *arguments)


@contextlib.contextmanager
def instances(installation: Installation) -> Iterator[list[ServerProcess]]:
    """Two on PostgreSQL; SQLite serves one process."""
    count = 1 if installation.database_url.startswith("sqlite") else 2
    with running_processes(installation, count) as servers:
        yield servers


async def wait_for_kids(server: ServerProcess, gone: set[str], since: float) -> float:
    """Seconds since `since` until none of these is published."""
    while gone & set(await kids(server)):
        assert time.monotonic() < since + 60
        await asyncio.sleep(0.02)
    return time.monotonic() - since


async def test_simultaneous_first_starts_make_one_keyring(installation: Installation) -> None:
    """Several processes find an empty database: one makes the keys, all use them."""
    made = await asyncio.gather(*(run_cli(installation, "keys", "init") for _ in range(4)))
    assert sorted(report["is_new"] for report in made) == [False, False, False, True]
    assert len({report["keyring_id"] for report in made}) == 1
    assert len({key["kid"] for report in made for key in report["keys"]}) == 2
    assert not (installation.directory / "keys").exists()


# Two instances; what one does on SQLite is in tests/services.
@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
async def test_every_instance_answers_a_compromise_within_a_second(
    installation: Installation,
) -> None:
    """One key, and nobody is logged out; all keys, and everybody is. Between them another master
    key. The same commands and the same database as in production."""
    with instances(installation) as servers:
        add_people(installation)
        session = await log_in(servers[-1])
        before = await kids(servers[0])
        await run_cli(installation, "keys", "compromise", before[0])
        started = time.monotonic()
        for server in servers:
            assert await wait_for_kids(server, {before[0]}, started) < WITHIN_S
        answer = await refresh(servers[0], session)
        assert answer.status_code == 200

        add_master_key(installation, 2)
        moved = await run_cli(installation, "keys", "rewrap")
        assert (moved["changed"], moved["master_version"], moved["old_versions"]) == (True, 2, [1])
        newer = await log_in(servers[0])
        for server in servers:
            answer = await refresh(server, answer.json()["refresh_token"])
            assert answer.status_code == 200
            newer = (await refresh(server, newer)).json()["refresh_token"]

        add_master_key(installation, 3)
        stolen = set(await kids(servers[0]))
        asked_at = time.monotonic()
        everything = asyncio.create_task(
            run_cli(installation, "keys", "compromise", "--all", "--yes")
        )
        followed = [await wait_for_kids(server, stolen, asked_at) for server in servers]
        report = await everything
        assert set(report["dropped"]) >= stolen
        assert report["sessions_ended"] == 2
        assert max(followed) < time.monotonic() - asked_at  # while the command still ends sessions
        for server in servers:
            for ended in (newer, answer.json()["refresh_token"]):
                refused = await refresh(server, ended)
                assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
            assert (await kids(server))[0] == report["signing_kid"]
            assert (await refresh(server, await log_in(server))).status_code == 200


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
async def test_instance_with_another_master_key_is_refused(installation: Installation) -> None:
    """A mix-up of secrets is found at start, with an explanation, and harms nobody."""
    with instances(installation):
        other = installation.directory / "other-master-key"
        other.write_text(master_key_line(1))
        other.chmod(0o600)
        with pytest.raises(RuntimeError, match="belongs to another master key"):
            start_server(installation, name="mixed-up", overrides={"MASTER_KEY_FILE": str(other)})
        with pytest.raises(RuntimeError, match="are in the database itself"):
            start_server(
                installation, name="mixed-up", overrides={"KEY_STORE": "directory", "KEYS_DIR": "k"}
            )
    with instances(installation) as servers:
        assert len(await kids(servers[0])) == 2
