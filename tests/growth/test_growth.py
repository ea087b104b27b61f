"""`scripts/grow` in short, inside the test run: what it loads is used through a real server."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.growth import loading
from tests.growth.loading import load, sizes
from tests.growth.places import OVERRIDES, Engine, Place, grow
from tests.growth.purging import purge
from tests.growth.rows import BLOCK, Login, Shape, logins
from tests.growth.serving import Grown, addresses, log_in_once, refresh_once, sample, start
from tests.support.load import open_connections
from tests.support.process import ROOT, Installation
from token_server.storage.engine import open_store
from token_server.storage.families import find_family, list_families
from token_server.storage.status import session_numbers

SIZE, EXPIRED = 2000, 200
SHAPE = Shape(SIZE, EXPIRED, 100, 1_800_000_000, "$argon2id$made-up", 1)


async def grown_place(database_url: str, directory: Path) -> Place:
    installation = Installation(directory, database_url, OVERRIDES)
    engine: Engine = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    return await grow(installation, engine, SIZE, lambda _count: None)


def family_id_of(login: Login) -> bytes:
    family_id = login.family[1]
    assert isinstance(family_id, bytes)
    return family_id


async def test_loaded_sessions_live_and_a_prune_takes_exactly_the_expired(
    database_url: str, tmp_path: Path
) -> None:
    """Their tokens refresh, each to the next generation; their users log in; a prune under load
    leaves every other row; and the next run puts back what it took."""
    place = await grown_place(database_url, tmp_path)
    server, cost = await start(place, [])
    try:
        tokens, emails = await sample(place, place.shape.now, 500)
        assert len(tokens) > 250
        grown = Grown(place, server, tokens, emails)
        async with open_connections([server.address], 1) as [connection]:
            await log_in_once(grown, connection, addresses())
            for _ in range(30):
                assert (await refresh_once(grown, connection)).status == 200
        pruned = await purge(grown, per_s=50, quiet_s=0.2)
    finally:
        status = server.stop()
    assert status == 0
    assert (pruned.rows, pruned.expired_left, pruned.others_lost) == (EXPIRED, 0, 0)
    refused = [felt.refused for kinds in pruned.felt.values() for felt in kinds.values()]
    assert set(refused) == {0}
    assert {kind for felt in pruned.felt.values() for kind in felt} == {
        "refresh",
        "client_credentials",
    }
    assert cost.lists == 1
    assert cost.cpu_s > 0
    assert await load(database_url, place.shape) == EXPIRED
    assert await load(database_url, place.shape) == 0


async def test_interrupted_load_goes_on_where_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed stays and is not loaded again; the rows are the same as in one go."""
    for name in ("SQLITE_TRANSACTION", "POSTGRES_TRANSACTION", "BATCH"):
        monkeypatch.setattr(loading, name, 700)
    seen: Counter[str] = Counter()

    def advance(count: int) -> None:
        seen["stored"] += count
        if seen["stored"] > 700 and not seen["interrupted"]:
            seen["interrupted"] = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await load(database_url, SHAPE, advance)
    rest = await load(database_url, SHAPE)

    assert rest in {SIZE - 700, SIZE - 1400}  # whether the second transaction came to its commit
    found = await sizes(database_url)
    assert all(table.table_bytes > 0 for table in found.values())
    assert "ix_families_absolute_expires_at" in found["families"].index_bytes


async def test_loaded_rows_are_such_as_the_server_makes(database_url: str) -> None:
    """Every constraint holds, the server's own functions read them, and the next login gets the
    next number."""
    await load(database_url, SHAPE)
    store = await open_store(database_url, now=lambda: SHAPE.now)
    try:
        async with store.read() as connection:
            for login in list(logins(SHAPE, 995, 1005)):
                family = await find_family(connection, family_id_of(login))
                assert family is not None
                assert family.seq == login.family[0]
                assert (family.revoked_at is None) == (family.seq % SHAPE.revoked_every != 0)
                listed = await list_families(connection, user_id=family.user_id, now=SHAPE.now)
                is_live = family.revoked_at is None and family.idle_expires_at > SHAPE.now
                assert len(listed) == int(is_live)
            numbers = await session_numbers(connection)
        assert (numbers.lowest, numbers.highest) == (1, SIZE)
    finally:
        await store.close()


def test_rows_follow_from_their_number() -> None:
    """A load that goes on in the middle of a block makes the same rows."""
    first = BLOCK - 10
    whole = list(logins(SHAPE, 1, BLOCK + 20))
    assert list(logins(SHAPE, first, BLOCK + 20)) == whole[first - 1 :]
    assert len({login.family[1] for login in whole}) == len(whole)


def test_script_measures_and_writes_its_figures(tmp_path: Path) -> None:
    """The command as a person gives it, at the least size."""
    figures = tmp_path / "figures.json"
    options = "--engine sqlite --sizes 1000,2000 --rounds 1 --seconds 0.3 --starts 1 --quiet 0.3"
    subprocess.run(
        ["scripts/grow", *options.split(), "--prune-load", "20", "--json", str(figures)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=110,
    )
    found = json.loads(figures.read_text())["sqlite"]
    assert set(found["costs"]) == {"1000", "2000"}
    assert found["purges"]["2000"]["rows"] == EXPIRED
    assert found["costs"]["2000"]["login"][0]["hash_ms"] > 1
    assert found["bytes"]["2000"]["families"]["total"] > 200


def test_script_refuses_what_the_disk_has_no_room_for(tmp_path: Path) -> None:
    """Before anything is loaded."""
    done = subprocess.run(
        ["scripts/grow", "--sizes", "1e12", "--keep", str(tmp_path / "kept")],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "not enough" in done.stderr
    assert list((tmp_path / "kept").iterdir()) == []
