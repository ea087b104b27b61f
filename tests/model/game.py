"""One sequence after the other against a world of servers: make calls, judge them, look behind.

After every step: what was answered is explained by the model; every token that was handed out
verifies by the published keys; the sessions that were touched stand in the database as the model
has them, so that exactly one refresh token of a live one is usable and none of a dead one; what is
called active is not older than it may be.
"""

import asyncio
import base64
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.model.account_calls import AccountRefresh, Me
from tests.model.answers import Answer
from tests.model.calls import ISSUER, HttpCall, Introspect, Moment, Refresh
from tests.model.credentials import SCOPES, Cast
from tests.model.explaining import Made, ViolationError, explain
from tests.model.nodes import World
from tests.model.offline import AUDIENCE
from tests.model.onlooker import Onlooker
from tests.model.operator_calls import OperatorCall
from tests.model.plans import Join, Plan
from tests.model.state import ACCOUNT, SKEW_S, Client, Doors, Family, State
from tests.support.load import Reply
from tests.support.refresh_tokens import family_of, generation_of
from token_server.core.refresh import TokenText, encode_refresh_token
from token_server.services.clients import NewClient, add_client
from token_server.storage.families import find_session

MAX_TOUCHED = 3
LONG_S = 600


@dataclass(slots=True)
class Game:
    """`steps` and `sequences` count; `log` has what the sequence that runs did so far."""

    world: World
    sequences: int = 0
    steps: int = 0
    log: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    failure: str = ""  # the first one, with all that led to it: a race may not show itself twice
    _states: list[State] = field(default_factory=list)
    _cast: Cast = field(init=False)
    _onlooker: Onlooker = field(init=False)
    _constants: State = field(init=False)
    _service: tuple[str, str] = field(init=False)
    _machine: tuple[str, str] = field(init=False)
    _requests: int = 0

    def open(self) -> None:
        """Before the first sequence: a service, a machine, and the keys."""
        self.world.run(self._open())

    def begin(self, windows: tuple[int, int], idle_s: int | None, absolute_s: int | None) -> None:
        self.sequences += 1
        self.log.clear()
        self.world.run(self._begin(windows, idle_s, absolute_s))

    def step(self, plans: Sequence[Plan], nodes: Sequence[int]) -> None:
        """One plan alone, or several at the same time."""
        self.steps += 1
        self.world.run(self._step(plans, nodes))

    def pass_time(self, seconds: int) -> None:
        self.steps += 1
        self.world.run(self._pass_time(seconds))

    def set_clock(self, seconds: int) -> None:
        """The wall clock alone: from the furthest that it has been; 0 sets it right again."""
        self.steps += 1
        self.world.run(self._set_clock(seconds))

    def restart(self, which: int) -> None:
        self.steps += 1
        self.world.run(self._restart(which))

    def change_keys(self, verb: str) -> None:
        self.steps += 1
        self.world.run(self._change_keys(verb))

    def look(self, which: int) -> None:
        self.steps += 1
        self.world.run(self._look(which % len(self.world.nodes)))

    def finish(self) -> None:
        """What is left of every session, presented once more."""
        self.world.run(self._finish())

    def note_failure(self, error: Exception) -> None:
        if not self.failure:
            trace = "".join(traceback.format_exception(error))
            steps = "\n".join(f"  {line}" for line in self.log)
            self.failure = f"{trace}\nsequence {self.sequences}:\n{steps}"

    # What happens in the servers' loop.

    async def _open(self) -> None:
        self._onlooker = Onlooker(self.world)
        runtime = self.world.nodes[0].runtime
        _, secret = await add_client(runtime, NewClient("orders", (), serves_audiences=(AUDIENCE,)))
        assert secret is not None
        self._service = ("orders", secret.reveal())
        _, secret = await add_client(
            runtime,
            NewClient(
                "meter",
                ("client_credentials",),
                SCOPES,
                (AUDIENCE,),
                (AUDIENCE,),
                is_revocable=True,
            ),
        )
        assert secret is not None
        self._machine = ("meter", secret.reveal())
        clients = {
            ACCOUNT: Client(ACCOUNT, Doors(), audience=ISSUER),
            "orders": Client("orders", Doors(secrets=((self._service[1], None),)), serves=AUDIENCE),
            "meter": Client(
                "meter",
                Doors(secrets=((self._machine[1], None),)),
                SCOPES,
                AUDIENCE,
                is_listed=True,
            ),
        }
        self._constants = State(clients=clients)
        await self._onlooker.fetch_all(self._states)

    async def _begin(
        self, windows: tuple[int, int], idle_s: int | None, absolute_s: int | None
    ) -> None:
        await self._set_clock(0)
        await self._pass_time(1)
        state = replace(self._constants, compromised=self._onlooker.compromised)
        names = tuple(f"{kind}-{self.sequences}" for kind in ("app", "web"))
        for name, window_s, is_public in zip(names, windows, (True, False), strict=True):
            new = NewClient(
                name,
                ("password", "refresh_token"),
                SCOPES,
                (AUDIENCE,),
                (AUDIENCE,),
                is_public=is_public,
                access_token_ttl_s=60 if is_public else None,
                refresh_idle_ttl_s=idle_s,
                refresh_absolute_ttl_s=absolute_s,
                refresh_replay_window_s=window_s,
            )
            _, secret = await add_client(self.world.nodes[0].runtime, new)
            secrets = () if secret is None else ((secret.reveal(), None),)
            client = Client(name, Doors(secrets=secrets), SCOPES, AUDIENCE, window_s=window_s)
            if is_public:
                client = replace(client, access_ttl_s=60)
            if idle_s is not None:
                client = replace(client, idle_ttl_s=idle_s)
            if absolute_s is not None:
                client = replace(client, absolute_ttl_s=absolute_s)
            state = state.with_client(client)
        self._states = [state]
        self._cast = Cast(
            self.sequences,
            state,
            (names[0], names[1]),
            self._machine,
            self._service,
            self._forge,
            lambda: self.world.nodes[0].clock.now,
        )
        await self._step((Join(),), (0,))

    async def _step(self, plans: Sequence[Plan], nodes: Sequence[int]) -> None:
        before = self._states[0].families
        calls = [plan.resolve(self._cast) for plan in plans]
        made = await self._make(calls, [which % len(self.world.nodes) for which in nodes])
        after = self._states[0].families
        self._count(made, before)
        touched = [
            each
            for key, each in after.items()
            if each.sid is not None and before.get(key) is not each
        ]
        for family in touched[-MAX_TOUCHED:]:
            await self._check_stored(family)
        if touched:
            await self._check_newest(touched[-1], nodes[-1])

    def _count(self, made: Sequence[Made], before: Mapping[str, Family]) -> None:
        """What came out, for the summary: a run that never met a replay has shown nothing."""
        for each in made:
            name, answer = type(each.call).__name__, each.answer
            self.seen[f"{name} {answer.error or answer.status or 'done'}"] += 1
            if isinstance(each.call, Refresh | AccountRefresh):
                self.seen[_fate_of(each, before, self._states[0].families)] += 1
        self.seen["alone" if len(made) == 1 else "at the same time"] += 1
        self.seen["more than one state left"] += len(self._states) > 1

    async def _make(
        self, calls: "Sequence[HttpCall | OperatorCall]", nodes: Sequence[int]
    ) -> list[Made]:
        """Make the calls at the same time, and go on with whatever explains the answers."""
        moments = [
            self._moment(node, f"{self.sequences}.{self._requests + number}")
            for number, node in enumerate(nodes)
        ]
        answers = await asyncio.gather(
            *(
                self._answer(call, node, actor)
                for actor, (call, node) in enumerate(zip(calls, nodes, strict=True))
            )
        )
        answers = [
            await self._onlooker.verified(answer, node, self._states)
            for answer, node in zip(answers, nodes, strict=True)
        ]
        made = [Made(*each) for each in zip(calls, moments, answers, strict=True)]
        self.log += [f"{' & '.join(map(str, made))}"]
        self._go_on(explain(self._states, made))
        for each in made:
            self._check_age(each)
        return made

    def _go_on(self, states: list[State]) -> None:
        self._states = states
        self._cast.follow(states[0])

    def _moment(self, node: int, name: str) -> Moment:
        clock = self.world.nodes[node].clock
        return Moment(clock.now, self.world.machine.uptime_ms, clock.is_stepped_back, name)

    async def _answer(self, call: "HttpCall | OperatorCall", which: int, actor: int) -> Answer:
        node = self.world.nodes[which]
        self._requests += 1
        if hasattr(call, "perform"):
            return Answer(0, value=await call.perform(node.runtime))
        number = self._requests
        # Each from a network of its own: guessing budgets are another test's.
        source = {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
        return _answer_of(await node.request(actor, call.request(source)))

    def _check_age(self, made: Made) -> None:
        """By the uptime, which no clock step moves: no token lives longer than it says, and the
        tolerance."""
        if not isinstance(made.call, Introspect | Me) or made.answer.status != 200:
            return
        if isinstance(made.call, Introspect) and not made.answer.members.get("active"):
            return
        access = self._states[0].access.get(made.call.token)
        if access is None:
            return
        age_ms = made.moment.uptime_ms - access.issued_ms
        if age_ms >= (access.expires_at - access.issued_at + SKEW_S + 1) * 1000:
            raise ViolationError(f"a token is good {age_ms} ms after it was issued: {made}")

    async def _check_stored(self, family: Family) -> None:
        """One row says which token is usable: the current generation, if it is not revoked."""
        async with self.world.nodes[0].runtime.store.read() as connection:
            stored = await find_session(connection, str(family.sid))

        def agrees(state: State) -> bool:
            expected = state.families.get(family.key)
            if expected is None or stored is None:
                return expected is None and stored is None
            found = (stored.generation, stored.revoked_at is not None, stored.auth_time)
            return found == (expected.generation, expected.is_revoked, expected.auth_time)

        self._narrow([each for each in self._states if agrees(each)], f"stored: {stored}")

    def _narrow(self, states: list[State], what: str) -> None:
        if not states:
            raise ViolationError(f"the model has it otherwise: {what}\n{self._states[0]}")
        self._go_on(states)

    async def _check_newest(self, family: Family, which: int) -> None:
        """Its newest access token and its newest refresh token, asked about."""
        calls: list[HttpCall] = []
        tokens = self._cast.access_of(family)
        if tokens and family.client_id == ACCOUNT:
            calls = [Me(tokens[-1])]
        elif tokens:
            calls = [Introspect(self._cast.service(), tokens[-1])]
        if family.client_id == self._cast.confidential:
            owner = self._cast.credentials(family.client_id)
            calls += [Introspect(owner, text) for text in self._cast.texts_of(family)[-2:]]
        for call in calls:
            await self._make([call], [which % len(self.world.nodes)])

    async def _pass_time(self, seconds: int) -> None:
        self.log.append(f"{seconds} s pass")
        self.world.set_clock(forward_ms=seconds * 1000)
        await self._after_clock(seconds)

    async def _set_clock(self, seconds: int) -> None:
        furthest_ms = max(node.clock.furthest_ms for node in self.world.nodes)
        self.log.append(f"the wall clock is set to {seconds} s from the furthest")
        self.world.set_clock(offset_ms=furthest_ms + seconds * 1000)
        await self._after_clock(seconds)

    async def _after_clock(self, seconds: int) -> None:
        """A step of minutes is time in which a server looks after its keys."""
        self._onlooker.check_clocks()
        if seconds >= LONG_S:
            for node in self.world.nodes:
                await node.tick()
            await self._onlooker.fetch_all(self._states)

    async def _restart(self, which: int) -> None:
        await self._set_clock(0)
        self.log.append(f"server {which} is started again")
        await self.world.restart(which % len(self.world.nodes))
        await self._onlooker.fetch_all(self._states)

    async def _change_keys(self, verb: str) -> None:
        if self.world.nodes[0].clock.is_stepped_back:
            return  # nothing is to be decided by such a clock
        self.log.append(f"keys: {verb}")
        await self._onlooker.change_keys(verb)
        compromised = self._onlooker.compromised
        self._go_on([replace(each, compromised=compromised) for each in self._states])
        await self._onlooker.fetch_all(self._states)
        for which in range(len(self.world.nodes)):
            await self._look(which)

    async def _look(self, which: int) -> None:
        self._narrow(await self._onlooker.read_lists(which, self._states), "a status list")

    async def _finish(self) -> None:
        await self._set_clock(0)
        for family in self._cast.families[-4:]:
            text = self._cast.texts_of(family)[-1]
            owner = self._cast.credentials(family.client_id)
            call = AccountRefresh(text) if family.client_id == ACCOUNT else Refresh(owner, text)
            await self._make([call], [0])
            await self._check_stored(family)

    def _forge(self, text: str) -> str:
        """The token after this one, that our own key has signed and nobody was given."""
        runtime = self.world.nodes[0].runtime
        raw = base64.urlsafe_b64decode(text.removeprefix("rt_"))
        version, generation = int.from_bytes(raw[:2], "big"), generation_of(text)
        key = runtime.master_keys.find_refresh_mac_key(version)
        assert key is not None
        token = TokenText(version, family_of(text), generation + 1)
        return encode_refresh_token(token, key, runtime.epoch)


def _fate_of(made: Made, before: Mapping[str, Family], after: Mapping[str, Family]) -> str:
    changed = [key for key, each in before.items() if after.get(key) not in (None, each)]
    if made.answer.status == 200:
        is_step = any(before[key].generation != after[key].generation for key in changed)
        return "refresh: rotated" if is_step else "refresh: replayed"
    is_end = any(after[key].is_revoked != before[key].is_revoked for key in changed)
    return "refresh: reuse" if is_end else "refresh: refused"


def _answer_of(reply: Reply) -> Answer:
    return Answer(reply.status, reply.body, retry_after=b"\r\nretry-after:" in reply.head.lower())
