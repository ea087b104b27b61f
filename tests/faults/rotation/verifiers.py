"""The foreign verifiers of a drill: their processes, and the account of what each of them said.

Every token goes to every verifier once for each age, and is never tried again: a refusal is a
request that failed. Tokens of a key that was called compromised are refused rightly.
"""

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.rotation.verifier import Place
from tests.faults.rotation.world import Ring, Token
from tests.support.process import ROOT

MAX_BATCH = 200
STOP_TIMEOUT_S = 60.0
TOO_LATE_S = 1.0  # a token with less left than that is not sent any more


@dataclass(frozen=True, slots=True)
class Kind:
    """A library, the command that runs it, and how long it uses a key set by itself."""

    name: str
    command: tuple[str, ...]
    polls_every_s: float


def python_kinds(jwks_max_age_s: int) -> list[Kind]:
    module = (sys.executable, "-m", "tests.faults.rotation.verifier")
    return [
        Kind("pyjwt", (*module, "pyjwt"), 300),
        Kind("joserfc", (*module, "joserfc"), jwks_max_age_s),
    ]


def jose_kind(node_project: Path) -> Kind:
    """npm's jose, in a directory with its installed dependencies."""
    return Kind("jose", ("node", str(node_project / "verifier.mjs")), 600)


@dataclass(frozen=True, slots=True)
class Refusal:
    verifier: str
    keyring: str
    kid: str
    age_s: float
    reason: str


@dataclass(slots=True)
class Account:
    """What the verifiers said."""

    rings: Mapping[str, Ring]
    verified: Counter[str] = field(default_factory=Counter)  # by verifier
    old: Counter[str] = field(default_factory=Counter)  # of these, tokens seen before
    rightly_refused: Counter[str] = field(default_factory=Counter)
    too_late: int = 0  # not sent, or expired on the way: the drill was slow, not the server
    refusals: list[Refusal] = field(default_factory=list)
    accepted_for_s: dict[str, float] = field(default_factory=dict)  # after a compromise

    def note(self, verifier: str, token: Token, reason: str | None, *, is_old: bool) -> None:
        now = time.time()
        compromised_at = self.rings[token.keyring].life(token.kid).compromised_at
        if reason is None:
            self.verified[verifier] += 1
            self.old[verifier] += is_old
            if compromised_at is not None:
                longest_s = max(self.accepted_for_s.get(verifier, 0.0), now - compromised_at)
                self.accepted_for_s[verifier] = longest_s
        elif compromised_at is not None:
            self.rightly_refused[verifier] += 1
        elif now >= token.expires_at:
            self.too_late += 1
        else:
            age_s = round(now - token.issued_at, 3)
            refusal = Refusal(verifier, token.keyring, token.kid, age_s, reason)
            self.refusals.append(refusal)


class ForeignVerifier:
    """One process; what is submitted is verified in order, in batches."""

    def __init__(self, kind: Kind, process: Process, account: Account) -> None:
        self.kind = kind
        self._process = process
        self._account = account
        self._queue: asyncio.Queue[tuple[Token, bool]] = asyncio.Queue()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, kind: Kind, places: Mapping[str, Place], account: Account
    ) -> AsyncIterator["ForeignVerifier"]:
        """A verifier that works until the block ends; then all it was given has been verified."""
        process = await asyncio.create_subprocess_exec(
            *kind.command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=2**20
        )
        verifier = cls(kind, process, account)
        try:
            await verifier._ask({name: asdict(place) for name, place in places.items()})
            task = asyncio.create_task(verifier._run())
            try:
                yield verifier
                done = asyncio.create_task(verifier._queue.join())
                await asyncio.wait(
                    (done, task), timeout=STOP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not done.done():
                    reason = task.exception() if task.done() else None
                    raise RuntimeError(f"{kind.name} did not verify all it was given") from reason
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def submit(self, token: Token, *, is_old: bool) -> None:
        self._queue.put_nowait((token, is_old))

    async def _run(self) -> None:
        assert self._process.stdout is not None
        while True:
            taken = [await self._queue.get()]
            while len(taken) < MAX_BATCH and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            latest = time.time() + TOO_LATE_S
            batch = [(token, is_old) for token, is_old in taken if token.expires_at > latest]
            self._account.too_late += len(taken) - len(batch)
            if batch:
                await self._ask([(token.keyring, token.text) for token, _ in batch])
                answer = json.loads(await self._process.stdout.readline())
                self._take(batch, answer)
            for _ in taken:
                self._queue.task_done()

    def _take(self, batch: list[tuple[Token, bool]], answer: dict[str, object]) -> None:
        assert answer["checked"] == len(batch)
        refused = answer["refused"]
        assert isinstance(refused, dict)
        for number, (token, is_old) in enumerate(batch):
            reason = refused.get(str(number))
            self._account.note(self.kind.name, token, reason, is_old=is_old)

    async def _ask(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        await self._process.stdin.drain()


class Ages:
    """Hands tokens to the verifiers when they are new, and again at each of `ages_s`."""

    def __init__(self, ages_s: tuple[float, ...], submit: Callable[[Token, bool], None]) -> None:
        self._waiting: list[tuple[float, asyncio.Queue[Token]]] = [
            (age_s, asyncio.Queue()) for age_s in ages_s
        ]
        self._submit = submit

    def add(self, token: Token) -> None:
        self._submit(token, False)
        for _, queue in self._waiting:
            queue.put_nowait(token)

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(*(self._release(age_s, queue) for age_s, queue in self._waiting))

    async def _release(self, age_s: float, queue: "asyncio.Queue[Token]") -> None:
        while True:
            token = await queue.get()
            await asyncio.sleep(max(0.0, token.issued_at + age_s - time.time()))
            self._submit(token, True)
