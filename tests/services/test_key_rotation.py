"""The verbs of key rotation on a real runtime: reports, refusals, audit trail, two at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.config import Settings
from token_server.core.key_forecast import What
from token_server.errors import OperatorError
from token_server.records import AuditEvent
from token_server.runtime import Runtime, SystemEntropy, open_runtime
from token_server.services.key_plan import plan_keys
from token_server.services.key_rotation import (
    Asked,
    ChangeReport,
    compromise_key,
    promote_key,
    roll_back_keys,
    rotate_keys,
)
from token_server.services.key_upkeep import KeyUpkeep
from token_server.services.keys import KeyPlace
from token_server.storage import audit

LEAD_S = 86400
DAY_S = 86400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> Settings:
    copy_keys(shared_keys, tmp_path)
    return make_settings(sqlite_url, tmp_path)


@pytest.fixture
async def serving(settings: Settings, clock: ManualClock) -> AsyncIterator[KeyUpkeep]:
    """A server's own work for its keys; `tick` is one round of it."""
    async with open_runtime(settings, clock=clock) as runtime:
        upkeep = KeyUpkeep(runtime)
        await upkeep.start()
        yield upkeep


@pytest.fixture
async def runtime(
    serving: KeyUpkeep, settings: Settings, clock: ManualClock
) -> AsyncIterator[Runtime]:
    """What a command opens beside a running server."""
    tool = make_settings(
        settings.database_url.reveal(), settings.keys_dir.parent, mode="tool", key_lead_s=7 * DAY_S
    )
    async with open_runtime(tool, clock=clock) as opened:
        yield opened


def states(report: ChangeReport) -> list[str]:
    return [row.state.value for row in report.keys]


def signing(report: ChangeReport) -> str:
    (kid,) = [row.kid for row in report.keys if row.state == "active"]
    return kid


async def audited(runtime: Runtime) -> list[AuditEvent]:
    await runtime.background.close()
    async with runtime.store.read() as connection:
        rows = await audit.latest_events(connection, limit=20)
    return [row.event for row in rows if row.event.event.startswith("key.")]


async def test_rotation_is_dated_by_the_servers_lead(runtime: Runtime, clock: ManualClock) -> None:
    """One KEY_LEAD of the running server from now, not of the command's own settings (I2)."""
    report = await rotate_keys(runtime, Asked("rotate"))
    assert (report.changed, report.refused, report.forced) == (True, (), ())
    assert [(step.kind.value, step.at) for step in report.steps] == [
        ("scheduled", clock.now() + LEAD_S),
        ("made", None),
    ]
    assert states(report) == ["active", "next", "next"]
    assert (report.basis.source, report.basis.policy.lead_s) == ("serving", LEAD_S)
    signs = [event for event in report.events if event.what is What.SIGNS]
    assert (signs[0].at, signs[0].kid) == (clock.now() + LEAD_S, report.steps[0].kid)


async def test_second_rotation_has_nothing_to_do(runtime: Runtime) -> None:
    """And says why: cron may ask as often as it likes."""
    first = await rotate_keys(runtime, Asked("rotate"))
    again = await rotate_keys(runtime, Asked("rotate"))
    assert (again.changed, again.generation) == (False, first.generation)
    assert again.reason is not None
    assert "under way" in again.reason


async def test_rotation_if_due_waits_for_its_day(
    runtime: Runtime, serving: KeyUpkeep, clock: ManualClock
) -> None:
    """Not before the signing key's age less one lead; then dated at its age."""
    early = await rotate_keys(runtime, Asked("rotate"), if_due=True)
    assert (early.changed, early.steps) == (False, ())
    due_at = early.keys[0].activate_at or 0
    due_at += 90 * DAY_S
    clock.advance(89 * DAY_S - 10)
    await serving.tick()  # it still serves: the time counts
    late = await rotate_keys(runtime, Asked("rotate"), if_due=True)
    assert not late.changed
    clock.advance(20)
    due = await rotate_keys(runtime, Asked("rotate"), if_due=True)
    assert due.changed
    assert due.steps[0].at == max(due_at, clock.now() + LEAD_S)


async def test_promotion_is_refused_until_the_key_is_known(
    runtime: Runtime, serving: KeyUpkeep, clock: ManualClock
) -> None:
    """The refusal names I2, why, and the instant from which it is allowed; then it is (I2)."""
    before = await promote_key(runtime, Asked("promote"))
    (rule,) = before.refused
    assert (before.changed, before.can_be_forced) == (False, True)
    assert rule.invariant == "I2"
    assert rule.allowed_at is not None
    clock.advance(rule.allowed_at - clock.now() - 1)
    await serving.tick()
    assert (await promote_key(runtime, Asked("promote"))).refused
    clock.advance(1)
    report = await promote_key(runtime, Asked("promote"))
    assert report.changed
    assert states(report) == ["retiring", "active", "next"]
    assert report.switch is not None
    assert report.switch.known_s == LEAD_S
    assert not any(effect.refuses_for_s for effect in report.switch.effects)


async def test_emergency_rotation_says_who_fails(runtime: Runtime) -> None:
    """The next key signs at once, though it was never served for a lead: forced, with the list of
    verifiers, and both in the audit trail."""
    report = await rotate_keys(runtime, Asked("rotate"), now=True)
    assert report.changed
    assert [rule.invariant for rule in report.forced] == ["I2"]
    assert report.switch is not None
    costs = {effect.verifier: effect.refuses_for_s for effect in report.switch.effects}
    assert costs["Envoy jwt_authn"] == 600
    events = await audited(runtime)
    activated = [event for event in events if event.event == "key.activated"]
    assert [event.details["forced"] for event in activated] == ["I2"]
    assert [event.actor for event in activated] == ["operator"]


async def test_forced_promotion_is_audited(runtime: Runtime) -> None:
    """`--force` leaves its trace."""
    report = await promote_key(runtime, Asked("promote", force=True))
    assert [rule.invariant for rule in report.forced] == ["I2"]
    (activated,) = [one for one in await audited(runtime) if one.event == "key.activated"]
    assert (activated.subject, activated.details["forced"]) == (signing(report), "I2")


async def test_rollback_undates_then_switches_back(runtime: Runtime) -> None:
    """First the rotation under way, then the switch; with nothing replaced it is refused."""
    refused = await roll_back_keys(runtime, Asked("rollback"))
    assert [rule.invariant for rule in refused.refused] == ["I6"]
    assert not refused.can_be_forced
    first = await rotate_keys(runtime, Asked("rotate"))
    undated = await roll_back_keys(runtime, Asked("rollback"))
    assert [step.kind.value for step in undated.steps] == ["cancelled"]
    await rotate_keys(runtime, Asked("rotate"), now=True)
    back = await roll_back_keys(runtime, Asked("rollback"))
    assert [step.kind.value for step in back.steps] == ["rolled_back"]
    assert signing(back) == signing(first)


async def test_compromised_key_is_replaced_at_once(runtime: Runtime) -> None:
    """Dropped and replaced by the key that verifiers know; a second time there is nothing to do;
    a name that is no key's is "not found"."""
    bad = signing(await rotate_keys(runtime, Asked("rotate", dry_run=True)))
    report = await compromise_key(runtime, bad, Asked("compromise"))
    assert (report.changed, report.dropped) == (True, bad)
    assert signing(report) != bad
    assert sorted(states(report)) == ["active", "compromised", "next"]
    assert report.switch is not None
    assert any(effect.trusts_dropped_for_s for effect in report.switch.effects)
    again = await compromise_key(runtime, bad, Asked("compromise"))
    assert (again.changed, again.refused) == (False, ())
    with pytest.raises(OperatorError) as caught:
        await compromise_key(runtime, "nobody", Asked("compromise"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("verb", ["rotate", "now", "promote", "compromise"])
async def test_dry_run_changes_nothing(runtime: Runtime, settings: Settings, verb: str) -> None:
    """It says the steps, the cost and what would come; the manifest keeps its bytes."""
    manifest = settings.keys_dir / "keyring.json"
    before = manifest.read_bytes()
    kid = runtime.keyring.keys[0].kid
    match verb:
        case "promote":
            report = await promote_key(runtime, Asked("promote", force=True, dry_run=True))
        case "compromise":
            report = await compromise_key(runtime, kid, Asked("compromise", dry_run=True))
        case _:
            asked = Asked("rotate", dry_run=True)
            report = await rotate_keys(runtime, asked, now=verb == "now")
    assert (report.dry_run, report.changed) == (True, False)
    assert report.steps
    assert report.events
    assert manifest.read_bytes() == before
    assert (report.switch is not None) is (verb != "rotate")
    assert await audited(runtime) == []


async def test_two_who_rotate_at_once(
    runtime: Runtime, settings: Settings, clock: ManualClock
) -> None:
    """One makes the change, the other finds it done (I5)."""
    async with open_runtime(settings, clock=clock) as other:
        reports = await asyncio.gather(
            *(rotate_keys(one, Asked("rotate")) for one in (runtime, other))
        )
    assert sorted(report.changed for report in reports) == [False, True]
    (idle,) = [report for report in reports if not report.changed]
    assert idle.reason is not None
    assert "under way" in idle.reason
    assert len(runtime.keyring.keys) <= 3


async def test_stated_lead_counts_and_must_fit(
    serving: KeyUpkeep, settings: Settings, clock: ManualClock
) -> None:
    """What is stated to the command is planned with; too little for the server is refused."""
    url, directory = settings.database_url.reveal(), settings.keys_dir.parent
    stated = frozenset({"lead_s"})
    tool = make_settings(url, directory, mode="tool", key_lead_s=2 * DAY_S)
    async with open_runtime(tool, clock=clock, stated=stated) as runtime:
        report = await rotate_keys(runtime, Asked("rotate", dry_run=True, stated=stated))
    assert report.steps[0].at == clock.now() + 2 * DAY_S
    assert (report.basis.source, report.basis.stated) == ("serving", ("lead_s",))
    short = make_settings(url, directory, mode="tool", key_lead_s=60)
    async with open_runtime(short, clock=clock, stated=stated) as runtime:
        with pytest.raises(OperatorError, match="KEY_LEAD") as caught:
            await rotate_keys(runtime, Asked("rotate", stated=stated))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("stated", "bits"), [(frozenset(), 2048), (frozenset({"key_bits"}), 3072)])
async def test_new_keys_are_as_large_as_the_newest(
    settings: Settings, clock: ManualClock, stated: frozenset[str], bits: int
) -> None:
    """A shell without the server's KEY_BITS does not change their size; one that states it does."""
    url, directory = settings.database_url.reveal(), settings.keys_dir.parent
    tool = make_settings(url, directory, mode="tool", key_bits=3072)
    async with open_runtime(tool, clock=clock, stated=stated) as runtime:
        report = await rotate_keys(runtime, Asked("rotate"))
    assert [row.bits for row in report.keys] == [2048, 2048, bits]


async def test_plan_needs_no_database(
    settings: Settings, clock: ManualClock, tmp_path: Path
) -> None:
    """The key directory alone is enough, and the plan says that no server has run yet."""
    place = KeyPlace(
        make_settings(f"sqlite:///{tmp_path / 'none.db'}", settings.keys_dir.parent, mode="tool"),
        clock,
        SystemEntropy(),
    )
    plan = await plan_keys(place)
    assert (plan.basis.source, plan.basis.is_served) == ("command", False)
    assert plan.promotable_at is None
    assert any("No server has served" in note for note in plan.notes)
    assert not (tmp_path / "none.db").exists()


async def test_plan_beside_a_server(
    serving: KeyUpkeep, settings: Settings, clock: ManualClock
) -> None:
    """The server's settings, and the same dates that its own upkeep will keep."""
    tool = make_settings(
        settings.database_url.reveal(), settings.keys_dir.parent, mode="tool", key_lead_s=DAY_S * 9
    )
    plan = await plan_keys(KeyPlace(tool, clock, SystemEntropy()))
    assert (plan.basis.source, plan.basis.is_served) == ("serving", True)
    assert plan.basis.policy.lead_s == LEAD_S
    assert plan.promotable_at == clock.now() + LEAD_S
    scheduled = [event for event in plan.events if event.what is What.SCHEDULED]
    clock.advance(scheduled[0].at - clock.now())
    await serving.tick()
    later = await plan_keys(KeyPlace(tool, clock, SystemEntropy()))
    signs = [event for event in later.events if event.what is What.SIGNS]
    assert (signs[0].kid, signs[0].is_firm) == (scheduled[0].kid, True)
