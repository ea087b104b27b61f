"""The keys of a running process: what it signs with, what it writes, what it believes (keys.md)."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.support.keyrings import NOW
from tests.support.live_keys import HOUR, KeyClock, Process, start_process
from token_server.core.key_changes import Change, Situation, StepKind, Unchanged
from token_server.core.key_compromise import compromise_key
from token_server.core.key_rotation import activate_next, cover, roll_back, start_rotation
from token_server.core.key_upkeep import resume, upkeep
from token_server.crypto import live_keys
from token_server.crypto.live_keys import Changed
from token_server.crypto.opening import make_key
from token_server.crypto.secrets import encode_base64url
from token_server.errors import OperatorError, UnavailableError

LEAD_S = 24 * HOUR
HEAD_ROOM_S = MAX_AGE_S = LEAD_S // 2
SECOND = encode_base64url(bytes(range(32, 64)))  # another master key


@pytest.fixture
def clock() -> KeyClock:
    return KeyClock()


@pytest.fixture
async def one(keys_dir: Path, clock: KeyClock) -> Process:
    return await start_process(keys_dir, clock)


@pytest.fixture
async def two(keys_dir: Path, clock: KeyClock) -> Process:
    """Another process on the same directory."""
    return await start_process(keys_dir, clock)


async def publish(process: Process) -> None:
    assert isinstance(await process.keys.change(upkeep), Changed)


async def test_tokens_cost_one_write_for_each_head_room(one: Process) -> None:
    """I4: a mark with head-room, raised ahead of need, and no write for a token."""
    for _ in range(5 * 24 * 2):  # five days, every half hour
        for _ in range(3):
            await one.sign()
        assert one.clock.now() + 900 <= one.mark()
        await one.keys.keep_covered()
        one.clock.advance(HOUR // 2)
        await one.keys.refresh()
    assert one.watch.asked["replace"] == 5 * LEAD_S // HEAD_ROOM_S
    stored = json.loads((await _manifest(one)).decode())["keyring"]["keys"]
    assert one.mark() in [key["exp_high_water"] for key in stored]


async def _manifest(process: Process) -> bytes:
    path = Path(process.keys.store.locate(process.watch.written[-1].keys[0])).parent
    return await asyncio.to_thread((path / "keyring.json").read_bytes)


async def test_signers_that_wait_share_one_write(one: Process) -> None:
    """A client with long tokens meets a low mark: its many requests are one change."""
    kids = await asyncio.gather(*(one.sign(ttl_s=20 * HOUR) for _ in range(50)))
    assert len(set(kids)) == 1
    assert one.watch.asked["replace"] == 1
    assert one.watch.asked["load"] == 1
    assert one.mark() == NOW + 20 * HOUR + HEAD_ROOM_S


async def test_mark_that_another_instance_raised_is_used(one: Process, two: Process) -> None:
    """It is read, not written again."""
    await two.sign(ttl_s=20 * HOUR)
    await one.sign(ttl_s=19 * HOUR)
    assert one.watch.asked["replace"] == 0
    assert one.mark() == two.mark()


async def test_store_that_refuses_writes_stops_nobody_until_the_mark(one: Process) -> None:
    """Signing goes on for a quarter to half a lead, then says "later" to all at the price of one
    attempt, and goes on by itself when the store is well (case 243)."""
    one.watch.refuses.add("replace")
    one.clock.advance(HEAD_ROOM_S)
    await one.keys.refresh()
    await one.sign()
    with pytest.raises(OperatorError):
        await one.keys.keep_covered()
    one.clock.advance(1)
    before = one.watch.asked["replace"]
    refused = await asyncio.gather(*(one.sign() for _ in range(20)), return_exceptions=True)
    assert {str(error) for error in refused} == {"key_store_unwritable"}
    assert {type(error) for error in refused} == {UnavailableError}
    assert one.watch.asked["replace"] == before + 1
    assert one.keys.write_problem == "the disk refuses to replace"
    assert one.problems == {"write": before + 1}
    one.watch.refuses.clear()
    one.clock.advance(1)
    await one.sign()
    assert one.keys.write_problem is None


async def test_problem_of_the_store_is_logged_when_it_begins_and_ends(
    one: Process, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not at every attempt: a log that repeats itself hides the rest."""
    one.watch.refuses.add("record_serving")
    for _ in range(3):
        with pytest.raises(OperatorError):
            await one.keys.record_serving()
    one.watch.refuses.clear()
    for _ in range(3):
        await one.keys.record_serving()
    events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert events == ["key_store_failed", "key_store_works_again"]
    assert one.problems == {"write": 3}


async def test_keys_that_cannot_be_confirmed_stop_signing(one: Process) -> None:
    """I3: another instance may have rotated; the JWKS goes on, and so does signing afterwards."""
    one.watch.refuses.add("load")
    assert not await one.keys.refresh()
    one.clock.advance(MAX_AGE_S)
    kid = await one.sign(ttl_s=60)
    one.clock.advance(1)
    assert one.keys.is_stale
    with pytest.raises(UnavailableError, match="keyring_stale"):
        await one.sign(ttl_s=60)
    assert kid in one.keys.keyring.jwks(one.clock.now()).decode()
    one.watch.refuses.clear()
    one.clock.advance(2)
    assert await one.sign(ttl_s=60) == kid
    assert not one.keys.is_stale


async def test_time_asleep_counts_for_the_age_of_keys(one: Process, two: Process) -> None:
    """A machine that slept through a rotation looks before it signs: the monotonic clock does
    not count such time."""
    await publish(one)
    await two.keys.refresh()
    await two.keys.change(lambda now: activate_next(now, "why"), force=True)
    one.clock.at += MAX_AGE_S + 1
    assert await one.sign() == await two.sign()


async def test_clock_that_is_set_back_does_not_make_keys_younger(one: Process) -> None:
    """The larger of both ages counts."""
    one.clock.monotonic_s += MAX_AGE_S + 1
    one.clock.at -= 100
    assert one.keys.age_s == MAX_AGE_S + 1


async def test_keys_of_a_clock_ahead_sign_at_once_within_the_skew(
    one: Process, keys_dir: Path
) -> None:
    """Between a first start, or a compromise, and its instant on a clock that is behind there is
    no other key: CLOCK_SKEW must not be an outage. A clock further behind signs nothing."""
    await publish(one)
    behind, lost = KeyClock(at=one.clock.now() - 10), KeyClock(at=one.clock.now() - 11)
    two, three = await start_process(keys_dir, behind), await start_process(keys_dir, lost)
    bad = await one.sign()
    assert await two.sign() == bad
    with pytest.raises(UnavailableError, match="no_signing_key"):
        await three.sign()
    await one.keys.change(lambda now: compromise_key(now, bad), force=True)
    await two.keys.refresh()
    assert await two.sign() == await one.sign() != bad
    assert two.keys.situation().signing_within_skew == one.keys.situation().signing


async def test_change_from_elsewhere_is_seen_at_the_next_look(one: Process, two: Process) -> None:
    """A compromise by command is on every instance within half a second."""
    await one.keys.look()
    bad = await one.sign()
    loads = one.watch.asked["load"]
    for _ in range(5):
        await one.keys.look()
    assert one.watch.asked["load"] == loads, "a look costs no reading while nothing changes"
    outcome = await two.keys.change(lambda now: compromise_key(now, bad), force=True)
    assert isinstance(outcome, Changed)
    await one.keys.look()
    assert one.keys.keyring.generation == outcome.generation
    assert bad not in one.keys.keyring.jwks(one.clock.now()).decode()
    assert await one.sign() != bad


@pytest.mark.parametrize("fault", ["gone", "foreign", "older"])
async def test_keyring_that_cannot_be_ours_is_neither_used_nor_changed(
    one: Process, fault: str, keys_dir: Path, keyring_template: Path, tmp_path: Path
) -> None:
    """What is in memory stays, and nothing is written over what somebody put there."""
    kid = await one.sign()
    backup = Path(shutil.copytree(keys_dir, tmp_path / "backup"))
    await publish(one)
    shutil.rmtree(keys_dir)
    if fault == "foreign":
        other = KeyClock()
        await start_process(tmp_path / "other", other)
        shutil.copytree(tmp_path / "other", keys_dir)
    if fault == "older":
        shutil.copytree(backup, keys_dir)
    generation = one.keys.keyring.generation
    assert not await one.keys.refresh()
    assert one.keys.problem is not None
    with pytest.raises(OperatorError):
        await one.keys.change(start_rotation)
    assert one.watch.asked["replace"] == 1
    assert one.keys.keyring.generation == generation
    assert await one.sign() == kid
    assert one.problems["read"] == 1


async def test_lost_race_is_decided_anew_with_the_same_key(one: Process, two: Process) -> None:
    """I5: of two changes from one generation one is made; the other looks again."""

    async def rotate_first() -> None:
        await two.keys.change(start_rotation)

    one.watch.before_replace = rotate_first
    seen: list[Situation] = []

    def decide(situation: Situation) -> Change:
        seen.append(situation)
        change = activate_next(situation, "why")
        assert isinstance(change, Change)
        return change

    outcome = await one.keys.change(decide, force=True)
    assert isinstance(outcome, Changed)
    assert outcome.generation == 3
    assert seen[-1].dated is not None, "the other's rotation was seen"
    lost, made = one.watch.written
    assert lost.generation == 2
    assert len(made.keys) == 3, "the other made the next key, so the one made here is not needed"


async def test_new_key_of_a_lost_race_is_used_again(one: Process, two: Process) -> None:
    """Making a key takes up to seconds; a mark that was raised meanwhile must not cost another."""

    async def raise_first() -> None:
        await two.sign(ttl_s=20 * HOUR)

    one.watch.before_replace = raise_first
    outcome = await one.keys.change(start_rotation)
    assert isinstance(outcome, Changed)
    lost, made = one.watch.written
    assert lost.keys[-1] == made.keys[-1]
    (new,) = [step.kid for step in outcome.steps if step.kind is StepKind.MADE]
    assert new == made.keys[-1].key.kid


async def test_keys_that_are_changed_all_the_time_are_busy(one: Process, two: Process) -> None:
    """A bounded number of attempts, then an answer."""

    async def interfere() -> None:
        two.clock.advance(1)
        await two.sign(ttl_s=20 * HOUR + two.watch.asked["replace"] * LEAD_S)
        one.watch.before_replace = interfere

    one.watch.before_replace = interfere
    with pytest.raises(OperatorError, match="try again") as caught:
        await one.keys.change(lambda now: cover(now, now.keys[0].kid, NOW + 900 * HOUR))
    assert caught.value.exit_code == 5


async def test_cancelled_change_is_finished_first(one: Process) -> None:
    """Whoever goes away in the middle leaves a whole change, in the store and in memory."""
    one.watch.may_replace = asyncio.Event()
    changing = asyncio.create_task(one.keys.change(start_rotation))
    while not one.watch.asked["replace"]:  # noqa: ASYNC110 - the store has no event for it
        await asyncio.sleep(0.01)
    changing.cancel()
    await asyncio.sleep(0.05)
    assert not changing.done()
    one.watch.may_replace.set()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert one.keys.keyring.generation == 2
    assert one.keys.situation().dated is not None
    one.watch.may_replace = None
    assert isinstance(await one.keys.change(roll_back), Changed)


async def test_failure_after_a_cancellation_disturbs_nobody(
    one: Process, capfd: pytest.CaptureFixture[str]
) -> None:
    """The store refuses when the caller is gone: the loop must not complain of a lost exception."""
    one.watch.may_replace = asyncio.Event()
    changing = asyncio.create_task(one.keys.change(start_rotation))
    while not one.watch.asked["replace"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    shutil.rmtree(Path(one.keys.store.locate(one.watch.written[0].keys[0])).parent)
    changing.cancel()
    one.watch.may_replace.set()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert "never retrieved" not in capfd.readouterr().err
    assert one.keys.keyring.generation == 1


async def test_signing_does_not_wait_for_keys_being_made(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of 4096 bits takes seconds; a token that needs a higher mark meanwhile does not."""
    loop, may_make = asyncio.get_running_loop(), asyncio.Event()
    begun = asyncio.Event()

    def make_slowly(*arguments: object) -> object:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_make.wait(), loop).result(30)
        return make_key(*arguments)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(live_keys, "make_key", make_slowly)
    changing = asyncio.create_task(one.keys.change(start_rotation))
    await begun.wait()
    await asyncio.wait_for(one.sign(ttl_s=20 * HOUR), timeout=20)
    may_make.set()
    outcome = await changing
    assert isinstance(outcome, Changed)
    assert one.keys.keyring.generation == 3


async def test_token_that_waits_over_a_switch_is_signed_by_the_new_key(one: Process) -> None:
    """The mark cannot be raised for a key that has been replaced meanwhile: the next one signs."""
    await publish(one)
    one.clock.advance(LEAD_S)
    await one.keys.refresh()
    before = one.clock.now()
    await one.keys.change(lambda now: activate_next(now, "why"))
    _, kid = await one.keys.sign_compact(
        "JWT", b"{}", now=before - 60, expires_at=before + 30 * HOUR
    )
    signing = one.keys.situation().signing
    assert signing is not None
    assert kid == signing.kid


async def test_long_tokens_of_the_key_before_do_not_raise_the_next_ones_mark(one: Process) -> None:
    """Each key's mark follows from its own tokens, or it would stay published for nothing."""
    await publish(one)
    await one.sign(ttl_s=20 * HOUR)
    await one.keys.change(lambda now: activate_next(now, "why"), force=True)
    await one.sign(ttl_s=60)
    await one.keys.keep_covered()
    assert one.mark() < NOW + 13 * HOUR


async def test_new_version_of_the_master_key_is_picked_up(one: Process, keys_dir: Path) -> None:
    """A line more in the file needs no restart; what is in use changes with the keyring only."""
    path = keys_dir / "master.key"
    path.write_text(f"{path.read_text()}2:{SECOND}\n")
    assert await one.keys.refresh()
    assert one.keys.master_keys.versions == (1, 2)
    assert one.keys.master_keys.current == 1


@pytest.mark.parametrize("content", ["", "changeme", f"1:{SECOND}\n"])
async def test_wrong_master_key_at_run_time_changes_nothing(
    one: Process, keys_dir: Path, content: str
) -> None:
    """Empty, malformed, foreign: the keys and the master keys in memory stay, all of them."""
    before = one.keys.master_keys
    (keys_dir / "master.key").write_text(content)
    assert not await one.keys.refresh()
    assert one.keys.master_keys is before
    assert one.keys.problem is not None
    assert SECOND not in one.keys.problem
    await one.sign()


async def test_damaged_new_key_leaves_all_as_it_was(
    one: Process, two: Process, keys_dir: Path
) -> None:
    """A keyring of which one key cannot be opened is not half taken over."""
    await two.keys.change(start_rotation)
    before, master_keys = one.keys.keyring, one.keys.master_keys
    newest = max(keys_dir.glob("*.pem"), key=lambda path: path.stat().st_mtime_ns)
    whole = newest.read_bytes()
    lines = whole.decode().split("\n")
    lines[10] = "A" * 64
    newest.write_text("\n".join(lines))
    assert not await one.keys.refresh()
    assert one.keys.keyring is before
    assert one.keys.master_keys is master_keys
    newest.write_bytes(whole)
    assert await one.keys.refresh()
    assert one.keys.keyring.generation == 2


async def test_change_that_cannot_be_stored_is_assumed_in_memory(
    one: Process, two: Process, keys_dir: Path
) -> None:
    """A server that starts on a full disk puts off a date that came while none ran (I2); what is
    stored later takes its place."""
    await publish(one)
    await one.keys.record_serving()
    await one.keys.change(start_rotation)
    first = await one.sign(ttl_s=20 * HOUR)
    one.clock.advance(LEAD_S + HOUR)
    late = await start_process(keys_dir, one.clock)
    late.watch.refuses.add("replace")
    with pytest.raises(OperatorError):
        await late.keys.change(resume)
    assert await late.sign(ttl_s=60) != first, "by its date the next key would sign"
    late.keys.assume(resume)
    assert await late.keys.refresh(), "the stored keyring is no fork of what is assumed"
    late.watch.refuses.clear()
    assert await late.sign(ttl_s=60) == first
    assert isinstance(await late.keys.change(resume), Changed)
    assert await late.sign(ttl_s=60) == first


async def test_nothing_that_needs_the_store_is_assumed(one: Process) -> None:
    """A new key, an erased one or a broken rule: memory alone must not go there."""
    before = one.keys.keyring
    kid = before.keys[0].kid
    one.keys.assume(start_rotation)
    one.keys.assume(lambda now: compromise_key(now, kid))
    one.keys.assume(lambda _: Unchanged("nothing"))
    assert one.keys.keyring is before
