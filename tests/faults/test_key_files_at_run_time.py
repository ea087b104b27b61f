"""What happens to the key files while a server runs: the keys in memory go on, changes are refused
by name, and everything heals by itself when the files are good again."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.key_operations import sign
from tests.support.keyrings import contents
from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.config import Settings
from token_server.core.key_rotation import roll_back, start_rotation
from token_server.crypto.live_keys import Changed, Decide
from token_server.errors import OperatorError, UnavailableError
from token_server.runtime import Runtime, open_runtime
from token_server.services.checks import Level
from token_server.services.health import Readiness
from token_server.services.key_changes import change_keys
from token_server.services.key_upkeep import KeyUpkeep

LEAD_S = 3600
RELOAD_S = 5


@dataclass(slots=True)
class Serving:
    """A server's runtime and its upkeep, on a clock that the test moves."""

    runtime: Runtime
    keeper: KeyUpkeep
    clock: ManualClock
    settings: Settings

    @property
    def keys_dir(self) -> Path:
        return self.settings.keys_dir

    def problem(self) -> str | None:
        return self.runtime.keys.problem

    async def go_on(self, seconds: int = RELOAD_S) -> None:
        self.clock.advance(seconds)
        await self.keeper.tick()

    async def rotate_by_command(self, decide: Decide = start_rotation) -> int:
        """As `token-server keys rotate` does it: a process of its own opens everything anew.
        The generation that it made."""
        async with open_runtime(self.settings, clock=self.clock) as runtime:
            outcome = await change_keys(runtime, decide, actor="operator")
            assert isinstance(outcome, Changed)
            return outcome.generation


@pytest.fixture
async def serving(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> AsyncIterator[Serving]:
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(
        sqlite_url, tmp_path, key_lead_s=LEAD_S, key_reload_interval_s=RELOAD_S
    )
    clock = ManualClock()
    async with open_runtime(settings, clock=clock) as runtime:
        keeper = KeyUpkeep(runtime)
        await keeper.start()
        yield Serving(runtime, keeper, clock, settings)


def chmod(mode: int) -> Callable[[Path], object]:
    return lambda path: path.chmod(mode)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def give_away(path: Path) -> None:
    os.chown(path, 4711, -1)


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def a_file_instead(path: Path) -> None:
    move_away(path)
    path.touch()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
FAULTS = {
    "private half readable": ("*.pem", chmod(0o644), "chmod 600"),
    "private half cut": ("*.pem", cut, "not one whole encrypted"),
    "private half empty": ("*.pem", empty, "is empty"),
    "private half a link": ("*.pem", link, "symbolic link"),
    "private half gone": ("*.pem", move_away, "is missing"),
    "private half given away": ("*.pem", give_away, "belongs to user 4711"),
    "manifest writable": ("keyring.json", chmod(0o666), "chmod go-w"),
    "manifest cut": ("keyring.json", cut, "not a whole keyring manifest"),
    "manifest a link": ("keyring.json", link, "symbolic link"),
    "manifest gone": ("keyring.json", move_away, "no keyring.json|are gone|holds none"),
    "master key readable": ("master.key", chmod(0o640), "chmod 600"),
    "master key cut": ("master.key", cut, "not a master key file"),
    "master key gone": ("master.key", move_away, "is missing|is gone"),
    "lock open to others": (".lock", chmod(0o666), "chmod 600"),
    "directory open": ("", chmod(0o755), "chmod 700"),
    "directory writable": ("", chmod(0o777), "chmod 700"),
    "directory gone": ("", move_away, "keys"),
    "directory a link": ("", link, "symbolic link"),
    "file in its place": ("", a_file_instead, "not a directory"),
    "directory given away": ("", give_away, "belongs to user 4711"),
}


def parametrized(names: dict[str, tuple[str, Callable[[Path], object], str]]) -> list[object]:
    return [pytest.param(name, marks=needs_root if "given" in name else ()) for name in names]


def heal(keys_dir: Path, backup: Path) -> None:
    for path in (keys_dir, keys_dir.with_name("elsewhere")):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    shutil.copytree(backup, keys_dir)


@pytest.mark.parametrize("fault", parametrized(FAULTS))
async def test_damaged_files_cost_a_running_server_nothing(
    fault: str, serving: Serving, tmp_path: Path
) -> None:
    """227, 228, 233: the server signs and publishes with the keys in memory and says what is
    wrong, by name; a rotation by command is refused; once the files are good all goes on."""
    pattern, damage, expected = FAULTS[fault]
    runtime = serving.runtime
    before, jwks = runtime.keyring, runtime.keyring.jwks(serving.clock.now())
    backup = Path(shutil.copytree(serving.keys_dir, tmp_path / "backup"))
    path = min(serving.keys_dir.glob(pattern)) if pattern else serving.keys_dir
    damage(path)
    damaged = contents(serving.keys_dir) if serving.keys_dir.is_dir() else {}

    await serving.go_on()
    problem = serving.problem()
    assert problem is not None
    assert re.search(expected, problem)
    assert str(serving.keys_dir) in problem
    assert await sign(runtime)
    checks = {check.name: check for check in await Readiness(runtime).checks()}
    assert checks["key_store"].level is Level.WARN  # degraded
    assert problem in checks["key_store"].detail
    assert all(check.is_ok for check in checks.values())  # and ready
    assert runtime.keyring is before
    assert runtime.keyring.jwks(serving.clock.now()) == jwks
    with pytest.raises(OperatorError, match=expected):
        await serving.rotate_by_command()
    assert (contents(serving.keys_dir) if serving.keys_dir.is_dir() else {}) == damaged

    heal(serving.keys_dir, backup)
    await serving.go_on()
    assert serving.problem() is None
    generation = await serving.rotate_by_command()
    await serving.go_on()
    assert runtime.keyring.generation >= generation > before.generation


@pytest.mark.parametrize("fault", ["private half cut", "manifest gone", "directory gone"])
async def test_signing_stops_when_the_files_stay_damaged(
    fault: str, serving: Serving, tmp_path: Path
) -> None:
    """I3: after half of KEY_LEAD another instance may have rotated; the JWKS goes on, signing
    does not, until the files are good again."""
    pattern, damage, _ = FAULTS[fault]
    backup = Path(shutil.copytree(serving.keys_dir, tmp_path / "backup"))
    damage(min(serving.keys_dir.glob(pattern)) if pattern else serving.keys_dir)
    await serving.go_on(LEAD_S // 2 - 60)
    assert await sign(serving.runtime)
    await serving.go_on(120)
    jwks = serving.runtime.keyring.jwks(serving.clock.now())
    with pytest.raises(UnavailableError, match="keyring_stale"):
        await sign(serving.runtime)
    assert serving.runtime.keyring.jwks(serving.clock.now()) == jwks
    heal(serving.keys_dir, backup)
    await serving.go_on()
    assert await sign(serving.runtime)


async def test_older_backup_put_back_at_run_time_is_refused(
    serving: Serving, tmp_path: Path
) -> None:
    """An old key directory, restored under a running server, may lack what it published: what is
    in memory stays, also when the old one is changed until its generation is the same."""
    backup = Path(shutil.copytree(serving.keys_dir, tmp_path / "backup"))
    await serving.rotate_by_command()
    await serving.go_on()
    before = serving.runtime.keyring
    heal(serving.keys_dir, backup)
    await serving.go_on()
    assert "older than those in memory" in (serving.problem() or "")
    await serving.rotate_by_command()
    assert await serving.rotate_by_command(roll_back) == before.generation
    await serving.go_on()
    assert "a backup of the signing keys was put back" in (serving.problem() or "")
    assert serving.runtime.keyring is before


async def test_files_of_others_beside_ours_are_left_alone(serving: Serving) -> None:
    """What somebody keeps in the directory is neither read nor removed."""
    note = serving.keys_dir / "README.md"
    note.write_text("who to call at night")
    (serving.keys_dir / "old.pem.bak").write_text("not ours")
    await serving.rotate_by_command()
    await serving.go_on()
    assert serving.problem() is None
    assert note.read_text() == "who to call at night"
    assert (serving.keys_dir / "old.pem.bak").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_full_disk_refuses_a_rotation_and_stops_no_token(
    small_disk: Path, sqlite_url: str, shared_keys: Path
) -> None:
    """234: a disk that is really full: the rotation is refused before the live set is touched, by
    command and when the server finds it due; tokens go on, and room is all that it takes."""
    copy_keys(shared_keys, small_disk)
    settings = make_settings(
        sqlite_url, small_disk, key_lead_s=LEAD_S, key_rotate_every_s=2 * LEAD_S
    )
    clock = ManualClock()
    async with open_runtime(settings, clock=clock) as runtime:
        serving = Serving(runtime, KeyUpkeep(runtime), clock, settings)
        await serving.keeper.start()
        before = contents(serving.keys_dir)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", 0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OperatorError, match="No space left on device"):
            await serving.rotate_by_command()
        clock.advance(LEAD_S + 1)  # due by itself, too
        await serving.keeper.tick()
        assert "No space left on device" in (runtime.keys.write_problem or "")
        assert contents(serving.keys_dir) == before
        assert await sign(runtime)
        filler.unlink()
        await serving.go_on(60)
        assert len(runtime.keyring.keys) == 3
        assert await sign(runtime)
