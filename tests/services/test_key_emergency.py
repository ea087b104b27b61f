"""`keys compromise --all`: nothing that a thief took from the host is worth anything afterwards."""

import asyncio
import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.support.key_moves import Keyed, Served, make_keyed
from token_server.core.refresh import TokenText, decode_refresh_token, encode_refresh_token
from token_server.crypto.opening import Place
from token_server.errors import OperatorError
from token_server.records import AuditEventType, Family
from token_server.runtime import Runtime
from token_server.services import key_emergency
from token_server.services.key_emergency import EmergencyReport, compromise_everything
from token_server.storage import audit, families


@pytest.fixture(params=["directory", "database"])
def keyed(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Keyed:
    place: Place = request.param
    return make_keyed(database_url, tmp_path, place)


@pytest.fixture(params=["directory", "database"])
def sqlite_keyed(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> Keyed:
    place: Place = request.param
    return make_keyed(sqlite_url, tmp_path, place)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers follow when a test says so."""
    monkeypatch.setattr(key_emergency, "SETTLE_S", 0.0)


def is_own(keyed: Keyed) -> bool:
    return keyed.settings.key_store == "directory"


async def respond(keyed: Keyed, served: Served) -> EmergencyReport:
    """The command, after what a mounted master key needs first."""
    if not is_own(keyed):
        keyed.add_master_key(2)
    async with keyed.command(served.server) as runtime:
        return await compromise_everything(runtime, dry_run=False)


async def kids(served: Served) -> list[str]:
    jwks = (await served.server.http.get("/.well-known/jwks.json")).json()
    return [key["kid"] for key in jwks["keys"]]


def kid_of(access_token: str) -> str:
    header, _, _ = access_token.partition(".")
    return str(json.loads(urlsafe_b64decode(header + "=="))["kid"])


async def find(runtime: Runtime, token: str) -> Family:
    text = decode_refresh_token(token, runtime.master_keys.find_refresh_mac_key, runtime.epoch)
    assert text is not None
    async with runtime.store.read() as connection:
        family = await families.find_family(connection, text.family_id)
    assert family is not None
    return family


async def events(runtime: Runtime, kind: AuditEventType) -> list[Any]:
    async with runtime.store.read() as connection:
        found = await audit.list_events(connection, 0, 1000)
    return [stored.event for stored in found if stored.event.event is kind]


async def assert_works(served: Served, report: EmergencyReport, old_kids: list[str]) -> None:
    """The old keys are gone, the new one signs, a new session lives."""
    now_published = await kids(served)
    assert not set(now_published) & set(old_kids)
    assert len(now_published) == 2
    login = await served.server.login()
    assert kid_of(login["access_token"]) == report.signing_kid == now_published[0]
    refreshed = await served.server.refresh(login["refresh_token"])
    assert refreshed.status_code == 200


async def test_every_key_session_and_master_key_is_replaced(keyed: Keyed) -> None:
    """A running server follows at its next look: other keys, no old session, new ones work."""
    async with keyed.serving() as served:
        server = served.server
        await served.add_people()
        before, old_kids = await server.login(), await kids(served)
        thief = server.runtime.master_keys
        family = await find(server.runtime, before["refresh_token"])
        report = await respond(keyed, served)
        assert report.changed
        assert set(report.dropped) == set(old_kids)
        assert (report.master_version, report.sessions_ended) == (2, 1)
        assert {effect.verifier for effect in report.effects} >= {"PyJWT PyJWKClient"}
        at_once = await server.refresh(before["refresh_token"])
        assert at_once.status_code == 400  # before the server has looked: the row is revoked
        await served.follow()
        assert server.runtime.epoch == 1
        await assert_works(served, report, old_kids)
        assert (await server.refresh(before["refresh_token"])).json()["error"] == "invalid_grant"
        forged = encode_refresh_token(
            TokenText(1, family.family_id, family.generation), thief.refresh_mac_key(1), 1
        )
        assert (await server.refresh(forged)).json()["error"] == "invalid_grant"
        after = await find_by_id(server.runtime, family.family_id)
        assert after.revoked_reason == "keys_compromised"
        named = await events(server.runtime, AuditEventType.KEYRING_COMPROMISED)
        assert [event.details for event in named] == [{"epoch": 1, "master_version": 2}]
        ended = await events(server.runtime, AuditEventType.SESSION_REVOKED)
        assert [event.details["sessions_ended"] for event in ended] == [1]
        assert keyed.versions() == ([2] if is_own(keyed) else [1, 2])
        assert bool("take every line but version 2" in report.todo[0]) is not is_own(keyed)
    async with keyed.command() as runtime:  # a start decrypts every key
        stored = await runtime.keys.store.load()
        assert stored is not None
        live = {entry.key.kid for entry in stored.keys if entry.private_pem is not None}
        assert live.isdisjoint(old_kids)
        assert {entry.master_version for entry in stored.keys} == {None, 2}
    if is_own(keyed):
        assert {path.stem for path in keyed.settings.keys_dir.glob("*.pem")} == live


async def find_by_id(runtime: Runtime, family_id: bytes) -> Family:
    async with runtime.store.read() as connection:
        family = await families.find_family(connection, family_id)
    assert family is not None
    return family


async def test_session_that_a_late_server_begins_is_ended_too(
    sqlite_keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has looked, a server goes on under the old keys: what it begins does not last."""
    monkeypatch.setattr(key_emergency, "SETTLE_S", 1.0)
    async with sqlite_keyed.serving() as served:
        await served.add_people()
        before = await kids(served)
        responding = asyncio.create_task(respond(sqlite_keyed, served))
        generation = served.server.runtime.keyring.generation
        while True:  # until the keys are exchanged
            stored = await _peek(served.server.runtime)
            if stored != generation:
                break
            await asyncio.sleep(0.05)
        late = await served.server.login()
        assert kid_of(late["access_token"]) in before
        report = await responding
        await served.follow()
        assert report.sessions_ended == 1
        answer = await served.server.refresh(late["refresh_token"])
        assert answer.json()["error"] == "invalid_grant"
        await assert_works(served, report, before)


async def _peek(runtime: Runtime) -> int:
    stored = None
    while stored is None:
        try:
            stored = await runtime.keys.store.load()
        except OperatorError as error:
            assert "version 2, which is missing" in error.message  # noqa: PT017
            return -1
    return stored.generation


async def test_mounted_master_key_needs_a_new_version_first(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Refused with every step, and nothing has changed: neither key nor session."""
    keyed = make_keyed(sqlite_url, tmp_path, "database")
    async with keyed.serving() as served:
        await served.add_people()
        login, before = await served.server.login(), await kids(served)
        for dry_run in (True, False):
            async with keyed.command(served.server) as runtime:
                with pytest.raises(OperatorError, match=r"put `2:` and that key into") as caught:
                    await compromise_everything(runtime, dry_run=dry_run)
            assert caught.value.exit_code == 4
        await served.follow()
        assert await kids(served) == before
        assert (await served.server.refresh(login["refresh_token"])).status_code == 200
        assert served.server.runtime.epoch == 0


async def test_dry_run_says_what_would_end_and_ends_nothing(sqlite_keyed: Keyed) -> None:
    """The figures an operator wants before pressing the button."""
    async with sqlite_keyed.serving() as served:
        await served.add_people()
        login, before = await served.server.login(), await kids(served)
        if not is_own(sqlite_keyed):
            sqlite_keyed.add_master_key(2)
        content = sqlite_keyed.master_key.read_bytes()
        async with sqlite_keyed.command(served.server) as runtime:
            report = await compromise_everything(runtime, dry_run=True)
        assert (report.changed, report.dry_run, report.signing_kid) == (False, True, None)
        assert (set(report.dropped), report.sessions_ended) == (set(before), 1)
        assert report.master_version == 2
        await served.follow()
        assert await kids(served) == before
        assert (await served.server.refresh(login["refresh_token"])).status_code == 200
        assert sqlite_keyed.master_key.read_bytes() == content


class KilledError(BaseException):
    """Stands for kill -9."""


STEPS = ("_raise_epoch", "audit_change", "_end_sessions", "_finish")


@pytest.mark.parametrize("step", STEPS)
async def test_killed_before_any_step_it_is_completed_by_giving_it_again(
    sqlite_keyed: Keyed, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever was done, a start finds whole keys, and the second command ends all the rest."""

    def killed(*_: object) -> None:
        raise KilledError

    async with sqlite_keyed.serving() as served:
        await served.add_people()
        login, before = await served.server.login(), await kids(served)
        if not is_own(sqlite_keyed):
            sqlite_keyed.add_master_key(2)
        with monkeypatch.context() as patched:
            patched.setattr(key_emergency, step, killed)
            async with sqlite_keyed.command(served.server) as runtime:
                with pytest.raises(KilledError):
                    await compromise_everything(runtime, dry_run=False)
        await served.follow()
        assert served.server.runtime.keys.problem is None
        between = await served.server.login()
        async with sqlite_keyed.command(served.server) as runtime:
            report = await compromise_everything(runtime, dry_run=False)
        await served.follow()
        await assert_works(served, report, before)
        assert (await served.server.refresh(login["refresh_token"])).status_code == 400
        # With a mounted master key the keys are not exchanged a second time.
        is_new = not is_own(sqlite_keyed) and step != "_raise_epoch"
        answer = await served.server.refresh(between["refresh_token"])
        assert (answer.status_code == 200) is is_new
        assert (report.dropped == ()) is is_new
        newest = max(sqlite_keyed.versions())
        assert report.master_version == newest
        assert sqlite_keyed.versions() == ([newest] if is_own(sqlite_keyed) else [1, 2])


async def test_broken_off_emergency_of_another_day_is_not_taken_for_this_one(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the master key of that day may be what was stolen: a newer one is asked for."""

    def killed(*_: object) -> None:
        raise KilledError

    keyed = make_keyed(sqlite_url, tmp_path, "database")
    async with keyed.serving() as served:
        keyed.add_master_key(2)
        with monkeypatch.context() as patched:
            patched.setattr(key_emergency, "_finish", killed)
            async with keyed.command(served.server) as runtime:
                with pytest.raises(KilledError):
                    await compromise_everything(runtime, dry_run=False)
        served.server.clock.advance(3601)
        async with keyed.command(served.server) as runtime:
            with pytest.raises(OperatorError, match=r"put `3:`"):
                await compromise_everything(runtime, dry_run=False)


async def test_sessions_end_in_batches_each_with_its_trace(
    sqlite_keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy server never waits long for its turn to write, and no end is without an event."""
    monkeypatch.setattr(key_emergency, "BATCH", 2)
    async with sqlite_keyed.serving() as served:
        await served.add_people()
        tokens = [(await served.server.login())["refresh_token"] for _ in range(5)]
        report = await respond(sqlite_keyed, served)
        assert report.sessions_ended == 5
        ended = await events(served.server.runtime, AuditEventType.SESSION_REVOKED)
        assert [event.details["sessions_ended"] for event in ended] == [2, 2, 1]
        for token in tokens:
            assert (await served.server.refresh(token)).status_code == 400
