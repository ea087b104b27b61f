"""Another master key: moved to while a server runs, and the old one dropped when nothing needs
it."""

from pathlib import Path

import pytest

from tests.support.key_moves import Keyed, Served, make_keyed
from token_server.crypto import private_files, rewrapping
from token_server.crypto.opening import Place
from token_server.errors import OperatorError
from token_server.services.key_rewrap import RewrapReport, drop_old_master_keys, rewrap_keys

FOREIGN = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"


@pytest.fixture(params=["directory", "database"])
def keyed(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Keyed:
    place: Place = request.param
    return make_keyed(database_url, tmp_path, place)


@pytest.fixture
def own(sqlite_url: str, tmp_path: Path) -> Keyed:
    return make_keyed(sqlite_url, tmp_path, "directory")


async def move(keyed: Keyed, served: Served) -> RewrapReport:
    """To master key 2, by the file's owner."""
    is_own = keyed.settings.key_store == "directory"
    if not is_own:
        keyed.add_master_key(2)
    async with keyed.command(served.server) as runtime:
        return await rewrap_keys(runtime, new_master_key=is_own, dry_run=False)


async def test_sessions_of_both_master_keys_go_on_in_a_running_server(keyed: Keyed) -> None:
    """Nobody is logged out, no key changes its name, and new sessions rest on the new version."""
    async with keyed.serving() as served:
        server = served.server
        await served.add_people()
        before = await server.login()
        jwks = (await server.http.get("/.well-known/jwks.json")).content
        report = await move(keyed, served)
        assert report.changed
        assert (report.master_version, report.old_versions) == (2, (1,))
        assert set(report.kids) == {key.kid for key in server.runtime.keyring.keys}
        unfollowed = await server.refresh(before["refresh_token"])
        assert unfollowed.status_code == 200
        await served.follow()
        assert server.runtime.keys.problem is None
        assert server.runtime.master_keys.current == 2
        assert (await server.http.get("/.well-known/jwks.json")).content == jwks
        answer = await server.refresh(unfollowed.json()["refresh_token"])
        assert answer.status_code == 200
        after = await server.login()
        assert (await server.refresh(after["refresh_token"])).status_code == 200
        absolute = report.old_needed_until
        assert absolute == server.clock.now() + server.runtime.settings.refresh_absolute_ttl_s
    async with keyed.command() as runtime:
        stored = await runtime.keys.store.load()
        assert stored is not None
        assert {entry.master_version for entry in stored.keys} == {2}
        assert stored.master_key_check.startswith("2:")


async def test_second_rewrap_has_nothing_to_do(keyed: Keyed) -> None:
    """Safe to repeat, and a new line alone moves nothing."""
    async with keyed.serving() as served:
        async with keyed.command(served.server) as runtime:
            idle = await rewrap_keys(runtime, new_master_key=False, dry_run=False)
            assert (idle.changed, idle.kids, idle.master_version) == (False, (), 1)
        await move(keyed, served)
        async with keyed.command(served.server) as runtime:
            again = await rewrap_keys(runtime, new_master_key=False, dry_run=False)
        assert (again.changed, again.kids, again.master_version) == (False, (), 2)
        keyed.add_master_key(3)
        await served.keeper._runtime.keys.refresh()
        assert served.server.runtime.master_keys.versions == (1, 2, 3)
        assert served.server.runtime.master_keys.current == 2


async def test_dry_run_changes_nothing(keyed: Keyed) -> None:
    """It names what would move, and touches neither file nor store."""
    is_own = keyed.settings.key_store == "directory"
    async with keyed.command() as runtime:
        if not is_own:
            keyed.add_master_key(2)
            await runtime.keys.refresh()
        content, generation = keyed.master_key.read_text(), runtime.keyring.generation
        report = await rewrap_keys(runtime, new_master_key=is_own, dry_run=True)
        assert (report.changed, report.master_version, len(report.kids)) == (False, 2, 2)
        await runtime.keys.refresh()
        assert keyed.master_key.read_text() == content
        assert runtime.keyring.generation == generation


async def test_old_master_key_stays_until_its_last_session_is_over(own: Keyed) -> None:
    """Refused with the date; after it the line goes, and the server works without it."""
    async with own.serving() as served:
        server = served.server
        await served.add_people()
        await server.login()
        until = server.clock.now() + server.runtime.settings.refresh_absolute_ttl_s
        await move(own, served)
        await served.follow()
        async with own.command(server) as runtime:
            with pytest.raises(OperatorError, match=r"live until 20\d\d-\d\d-\d\d") as caught:
                await drop_old_master_keys(runtime, dry_run=False)
            assert caught.value.exit_code == 4
        assert own.versions() == [1, 2]
        server.clock.advance(until - server.clock.now() + 1)
        async with own.command(server) as runtime:
            tried = await drop_old_master_keys(runtime, dry_run=True)
            assert (tried.changed, tried.old_versions, own.versions()) == (False, (1,), [1, 2])
            done = await drop_old_master_keys(runtime, dry_run=False)
            assert (done.changed, done.dropped, own.versions()) == (True, (1,), [2])
            again = await drop_old_master_keys(runtime, dry_run=False)
            assert (again.changed, again.old_versions) == (False, ())
        await served.follow()
        assert server.runtime.master_keys.versions == (2,)
        login = await server.login()
        assert (await server.refresh(login["refresh_token"])).status_code == 200


async def test_old_master_key_is_not_dropped_while_a_key_is_under_it(own: Keyed) -> None:
    """A line that was added and not moved to yet: dropping "the old one" would lose every key."""
    async with own.command():
        pass
    own.add_master_key(2)
    async with own.command() as runtime:
        with pytest.raises(OperatorError, match="`keys rewrap` first"):
            await drop_old_master_keys(runtime, dry_run=False)
    assert own.versions() == [1, 2]


async def test_mounted_master_key_is_never_written(sqlite_url: str, tmp_path: Path) -> None:
    """It comes from a secret store: the operator is told what to do, with every step."""
    keyed = make_keyed(sqlite_url, tmp_path, "database")
    content = keyed.master_key.read_bytes()
    async with keyed.command() as runtime:
        with pytest.raises(OperatorError, match=r"put `2:` and that key") as caught:
            await rewrap_keys(runtime, new_master_key=True, dry_run=False)
        assert caught.value.exit_code == 4
    assert keyed.master_key.read_bytes() == content
    keyed.add_master_key(2)
    async with keyed.command() as runtime:
        await rewrap_keys(runtime, new_master_key=False, dry_run=False)
        with pytest.raises(OperatorError, match=r"take version 1 out of it"):
            await drop_old_master_keys(runtime, dry_run=False)
    assert keyed.versions() == [1, 2]
    assert not (tmp_path / "keys").exists()  # the database is all that is needed


class KilledError(BaseException):
    """Stands for kill -9: nothing after it runs, not even clean-up for errors."""


async def test_rewrap_that_is_killed_anywhere_is_completed_by_the_next(
    own: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file written in turn is the last: every start finds all keys, another rewrap ends it."""
    async with own.command() as runtime:
        kids = {key.kid for key in runtime.keyring.keys}
        jwks = runtime.keyring.jwks(runtime.clock.now())
    write = private_files.write_file
    for survived in range(5):
        left = survived

        def write_some(path: Path, content: bytes, entropy: private_files.EntropySource) -> None:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            write(path, content, entropy)

        async with own.command() as runtime:
            monkeypatch.setattr(private_files, "write_file", write_some)
            try:
                await rewrap_keys(runtime, new_master_key=True, dry_run=False)
            except KilledError:
                assert survived < 4
            else:
                assert survived == 4  # the master key, two private halves, the manifest
            monkeypatch.setattr(private_files, "write_file", write)
        async with own.command() as runtime:  # decrypts every key
            assert runtime.keyring.jwks(runtime.clock.now()) == jwks
            assert set(runtime.keyring.signers) == kids
            await rewrap_keys(runtime, new_master_key=False, dry_run=False)
            newest = max(own.versions())
            stored = await runtime.keys.store.load()
            assert stored is not None
            assert {entry.master_version for entry in stored.keys} == {newest}
            for entry in stored.keys:
                rewrapping.open_private(entry, runtime.master_keys)


async def test_full_disk_moves_nothing(own: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master key that is not safely on disk is not moved to."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with own.command() as runtime:
        monkeypatch.setattr(private_files, "write_file", refuse)
        with pytest.raises(OperatorError, match=r"cannot be written: No space left"):
            await rewrap_keys(runtime, new_master_key=True, dry_run=False)
        monkeypatch.undo()
        assert await runtime.keys.refresh()
        assert runtime.master_keys.versions == (1,)


async def test_wrong_master_key_file_at_run_time_leaves_the_keys_in_memory(keyed: Keyed) -> None:
    """A bad roll-out of the secret is a warning, not an outage; mended, all is well again."""
    async with keyed.serving() as served:
        server = served.server
        await served.add_people()
        login = await server.login()
        good = keyed.master_key.read_text()
        for bad in ("", "changeme\n", good.replace("1:", "2:"), FOREIGN):
            keyed.master_key.write_text(bad)
            assert not await server.runtime.keys.refresh()
            assert server.runtime.keys.problem is not None
            assert good.partition(":")[2].strip() not in server.runtime.keys.problem
            login = (await server.refresh(login["refresh_token"])).json()
            assert "access_token" in login
        keyed.master_key.unlink()
        assert not await server.runtime.keys.refresh()
        keyed.master_key.write_text(good)
        keyed.master_key.chmod(0o600)
        assert await server.runtime.keys.refresh()
        assert server.runtime.keys.problem is None


async def test_refusals_name_no_key(own: Keyed) -> None:
    """The reports and errors hold versions and dates, never a byte of a master key."""
    async with own.command() as runtime:
        report = await rewrap_keys(runtime, new_master_key=True, dry_run=False)
        text = repr(report) + repr(runtime.master_keys) + repr(runtime.keys.store)
    for line in own.master_key.read_text().splitlines()[1:]:
        assert line.partition(":")[2] not in text
