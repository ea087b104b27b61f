"""Clocks that step while keys rotate: nothing comes early for having been served too little, and
nothing comes back (I2, I4, I5)."""

from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from tests.faults.key_operations import sign
from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.core.key_compromise import compromise_key
from token_server.core.key_lifecycle import key_states
from token_server.core.key_rotation import start_rotation
from token_server.errors import UnavailableError
from token_server.records import KeyState
from token_server.runtime import Runtime, open_runtime
from token_server.services.health import Readiness
from token_server.services.key_changes import change_keys
from token_server.services.key_upkeep import KeyUpkeep

LEAD_S = 3600
DAY_S = 86400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def runtime(
    sqlite_url: str, shared_keys: Path, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Runtime]:
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, key_lead_s=LEAD_S, key_reload_interval_s=5)
    async with open_runtime(settings, clock=clock) as opened:
        yield opened


@pytest.fixture
async def keeper(runtime: Runtime) -> KeyUpkeep:
    keeper = KeyUpkeep(runtime)
    await keeper.start()
    return keeper


async def live(keeper: KeyUpkeep, clock: ManualClock, seconds: int, step_s: int = 30) -> None:
    """Served time: the server looks after its keys all the while."""
    for _ in range(seconds // step_s):
        clock.advance(step_s)
        await keeper.tick()


async def kid_of_a_token(runtime: Runtime) -> str:
    return str(jwt.get_unverified_header(await sign(runtime))["kid"])


async def test_step_back_delays_a_switch_and_never_repeats_it(
    runtime: Runtime, keeper: KeyUpkeep, clock: ManualClock
) -> None:
    """A wall clock that goes back before the switch makes it later by as much; after the switch
    has come for good, the old key signs again only where the clock says so, and both are
    published all the time, so that every token verifies."""
    old = await kid_of_a_token(runtime)
    await change_keys(runtime, start_rotation, actor="operator")
    await live(keeper, clock, LEAD_S - 600)
    clock.at -= 300
    await live(keeper, clock, 600)
    assert await kid_of_a_token(runtime) == old
    await live(keeper, clock, 330)
    new = await kid_of_a_token(runtime)
    assert new != old
    clock.at -= 120
    published = {key["kid"] for key in json_keys(runtime)}
    assert {await kid_of_a_token(runtime), old, new} <= published


def json_keys(runtime: Runtime) -> list[dict[str, str]]:
    keys = jwt.PyJWKSet.from_json(runtime.keyring.jwks(runtime.clock.now()).decode()).keys
    return [{"kid": str(key.key_id)} for key in keys]


async def test_step_back_does_not_bring_a_compromised_key_back(
    runtime: Runtime, keeper: KeyUpkeep, clock: ManualClock
) -> None:
    """A stolen key stays dropped, also on a clock that stands before the theft was noticed, in
    this process and in one that starts then."""
    bad = await kid_of_a_token(runtime)
    await live(keeper, clock, 300)
    await change_keys(
        runtime, lambda situation: compromise_key(situation, bad), actor="operator", force=True
    )
    clock.at -= 200
    await keeper.tick()
    assert bad not in {key["kid"] for key in json_keys(runtime)}
    with pytest.raises(UnavailableError, match="no_signing_key"):
        await sign(runtime)  # its successor signs from the instant of the compromise on
    async with open_runtime(runtime.settings, clock=clock) as later:
        assert bad not in {key["kid"] for key in json_keys(later)}
        assert bad not in later.keyring.signers
    clock.at += 200
    assert await kid_of_a_token(runtime) != bad


async def test_step_back_does_not_let_a_retired_key_sign(
    runtime: Runtime, keeper: KeyUpkeep, clock: ManualClock
) -> None:
    """Its private half is erased: whatever the clock says, it cannot sign any more; what was
    signed by it may verify longer, which harms nobody."""
    old = await kid_of_a_token(runtime)
    await change_keys(runtime, start_rotation, actor="operator")
    await live(keeper, clock, 16 * LEAD_S, 600)
    states = key_states(runtime.keyring.keys, clock.now())
    assert states[old] is KeyState.RETIRED
    assert old not in runtime.keyring.signers
    for back_s in (2 * LEAD_S, LEAD_S):
        clock.at -= back_s
        await keeper.tick()
        try:
            assert await kid_of_a_token(runtime) != old
        except UnavailableError as refused:
            assert refused.reason == "no_signing_key"  # noqa: PT017 - either is right


async def test_start_on_a_clock_before_the_first_key_is_not_ready_and_says_why(
    runtime: Runtime, keeper: KeyUpkeep, clock: ManualClock
) -> None:
    """A machine that starts with its clock in the past signs nothing, publishes its keys, and its
    readiness tells the operator; once the clock is right it goes on by itself."""
    clock.at -= 10 * DAY_S
    async with open_runtime(runtime.settings, clock=clock) as early:
        late_keeper = KeyUpkeep(early)
        await late_keeper.start()
        with pytest.raises(UnavailableError, match="no_signing_key"):
            await sign(early)
        assert len(json_keys(early)) >= 2
        checks = await Readiness(early).checks()
        (failed,) = [check for check in checks if not check.is_ok]
        assert failed.name == "signing_key"
        assert "clock" in failed.detail
        generation = early.keyring.generation
        clock.advance(10 * DAY_S)
        await late_keeper.tick()
        assert await sign(early)
        assert early.keyring.generation >= generation


async def test_step_forward_starts_no_second_rotation_and_loses_no_token(
    runtime: Runtime, keeper: KeyUpkeep, clock: ManualClock
) -> None:
    """A clock that jumps a year ahead and back: one rotation at most begins meanwhile, and the
    tokens of before verify all the time that they live."""
    old = await kid_of_a_token(runtime)
    before = len(runtime.keyring.keys)
    clock.at += 365 * DAY_S
    await keeper.tick()
    await keeper.tick()
    assert len(runtime.keyring.keys) <= before + 1
    assert await kid_of_a_token(runtime) == old, "the next key was not served for its lead"
    clock.at -= 365 * DAY_S
    await keeper.tick()
    assert old in {key["kid"] for key in json_keys(runtime)}
    assert await kid_of_a_token(runtime) == old
