"""The drill: keys are rotated by command while foreign verifiers check every token.

Several keyrings, each with its own servers, rotate side by side. Judged at the end: no verifier
refused a good token, none fetched more key sets than a rotation is worth, no request failed, and
a compromised key was gone from every server at once.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults.rotation.commands import run_keys
from tests.faults.rotation.compromise import compromise_signing_key
from tests.faults.rotation.load import AUDIENCE, Load
from tests.faults.rotation.proxy import JwksProxy
from tests.faults.rotation.report import Report, Rotation, count_fetches
from tests.faults.rotation.verifier import Place
from tests.faults.rotation.verifiers import Account, Ages, ForeignVerifier, Kind
from tests.faults.rotation.world import Ring, Token

JWKS_MAX_AGE_S = 1
LEAD_S = 4  # the least that is allowed: twice max-age, reload interval, skew
SETTINGS = {
    "JWKS_MAX_AGE": f"{JWKS_MAX_AGE_S}s",
    "KEY_RELOAD_INTERVAL": "1s",
    "CLOCK_SKEW": "1s",
    "KEY_LEAD": f"{LEAD_S}s",
}
SWITCH_TIMEOUT_S = LEAD_S + 15.0
RETIREMENT_TIMEOUT_S = 60.0
TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    rotations: int  # of each keyring
    spacing_s: float  # from command to command
    token_ttl_s: int
    rate: float  # tokens per second of each server
    compromises: int = 0  # of each keyring, after the rotations
    cooldown_s: float = 30.0  # how long PyJWT and jose refuse an unknown kid after a fetch
    rotate: tuple[str, ...] = ("rotate",)  # the command; `rotate --now` breaks the rules
    waits_for_retirement: bool = False

    @property
    def ages_s(self) -> tuple[float, ...]:
        """When a token is verified again: in the middle of its life, and shortly before its end."""
        return self.token_ttl_s * 0.45, self.token_ttl_s * 0.95 - 2.0

    @property
    def settings(self) -> dict[str, str]:
        return {**SETTINGS, "ACCESS_TOKEN_TTL": f"{self.token_ttl_s}s"}


async def run_drill(rings: Sequence[Ring], kinds: Sequence[Kind], plan: Plan) -> Report:
    """The servers are running already, with `plan.settings`, and their clients registered."""
    return await Drill(rings, kinds, plan).run()


class Drill:
    """One run."""

    def __init__(self, rings: Sequence[Ring], kinds: Sequence[Kind], plan: Plan) -> None:
        self._rings = rings
        self._kinds = kinds
        self._plan = plan
        self._account = Account({ring.name: ring for ring in rings})
        self._report = Report(self._account, kinds, JWKS_MAX_AGE_S)
        self._proxy = JwksProxy(
            {ring.name: [server.address for server in ring.servers] for ring in rings}
        )
        self._next_turn = {ring.name: 0.0 for ring in rings}
        self._one_at_a_time = asyncio.Lock()
        self._verifiers: list[ForeignVerifier] = []
        self._ages = Ages(plan.ages_s, self._submit)
        self._load = Load(rings, plan.rate, self._ages.add)

    async def run(self) -> Report:
        began = time.monotonic()
        async with self._proxy.serving(), contextlib.AsyncExitStack() as stack:
            for kind in self._kinds:
                verifier = ForeignVerifier.running(kind, self._places(kind), self._account)
                self._verifiers.append(await stack.enter_async_context(verifier))
            await self._load.log_in()
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(each.run()) for each in (self._load, self._ages)]
                await self._do_everything()
                for task in background:
                    task.cancel()
        report = self._report
        report.duration_s = time.monotonic() - began
        report.answered = self._load.answered
        report.note_logs(self._rings)
        report.judge(self._rings)
        return report

    async def _do_everything(self) -> None:
        await self._at_each(self._rotate_often)
        self._count_fetches()
        if self._plan.compromises:
            await self._at_each(self._compromise_often)
        if self._plan.waits_for_retirement:
            await self._at_each(self._await_retirements)

    async def _at_each(self, work: Callable[[Ring], Awaitable[None]]) -> None:
        """What goes wrong is a problem of that keyring; figures of a long run are not lost."""

        async def guarded(ring: Ring) -> None:
            try:
                await work(ring)
            except (RuntimeError, TimeoutError) as error:
                self._report.problems.append(f"{ring.name}: {error}")

        await asyncio.gather(*(guarded(ring) for ring in self._rings))

    async def _rotate_often(self, ring: Ring) -> None:
        await _until(lambda: ring.signing is not None, SWITCH_TIMEOUT_S)
        for number in range(self._plan.rotations):
            await self._await_turn(ring)
            await self._rotate(ring, by_script=number % 2 == 1)
        await self._await_turn(ring)

    async def _await_turn(self, ring: Ring) -> None:
        """Until `spacing_s` after the last command for this keyring."""
        await asyncio.sleep(max(0.0, self._next_turn[ring.name] - time.monotonic()))
        self._next_turn[ring.name] = time.monotonic() + self._plan.spacing_s

    async def _rotate(self, ring: Ring, *, by_script: bool) -> None:
        before = ring.signing
        run = await run_keys(ring, *self._plan.rotate, by_script=by_script)
        if not run.printed["changed"]:
            raise RuntimeError(f"{ring.name}: nothing was rotated: {run.printed}")
        await _until(lambda: ring.signing not in (None, before), SWITCH_TIMEOUT_S)
        kid = ring.signing
        assert kid is not None
        signed = sorted(ring.keys[kid].signed_first.values())
        self._report.rotations.append(
            Rotation(
                keyring=ring.name,
                kid=kid,
                command_s=run.took_s,
                switched_after_s=round(signed[-1] - run.began_at, 3),
                apart_s=round(signed[-1] - signed[0], 3),
                at=signed[0],
            )
        )

    async def _compromise_often(self, ring: Ring) -> None:
        for _ in range(self._plan.compromises):
            async with self._one_at_a_time:  # two commands at once would time each other
                compromise = await compromise_signing_key(ring, self._load.sessions)
            self._report.compromises.append(compromise)
            await self._await_turn(ring)
        await self._rotate(ring, by_script=False)  # as ever, afterwards

    async def _await_retirements(self, ring: Ring) -> None:
        """Until the last key that was replaced has left every key set, or long after it should."""
        now = time.time()
        replaced = [
            key
            for kid, key in ring.keys.items()
            if key.signed_first and kid != ring.signing and key.compromised_at is None
        ]
        latest = max((key.last_expiry for key in replaced), default=int(now))
        await _until(
            lambda: all(len(key.gone) == len(ring.servers) for key in replaced),
            max(0.0, latest - now) + RETIREMENT_TIMEOUT_S,
        )

    def _count_fetches(self) -> None:
        for ring in self._rings:
            switches = sorted(one.at for one in self._report.rotations if one.keyring == ring.name)
            self._report.fetches += [
                count_fetches(kind, ring.name, self._proxy.fetches, switches)
                for kind in self._kinds
            ]

    def _places(self, kind: Kind) -> dict[str, Place]:
        return {
            ring.name: Place(
                issuer=ring.installation.settings().issuer,
                audience=AUDIENCE,
                jwks_uri=self._proxy.url(ring.name, kind.name),
                cooldown_s=self._plan.cooldown_s,
            )
            for ring in self._rings
        }

    def _submit(self, token: Token, is_old: bool) -> None:
        for verifier in self._verifiers:
            verifier.submit(token, is_old=is_old)


async def _until(is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the servers did not get there within {timeout_s:.0f} s")
        await asyncio.sleep(TICK_S)
