"""What status lists cost: bytes on the wire, CPU to read and sign them, memory, CPU per check.

Many sessions are loaded into a database of its own (tests/growth), a share of them revoked;
then the server's own code reads them as after a start, signs every list and follows one more
revocation. A list is also read by the verification library, as a resource service holds it.
CPU is that of the process; on a shared machine read the figures as orders of magnitude.
"""

import argparse
import asyncio
import gzip
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import text

from tests.growth.loading import load
from tests.growth.rows import Shape
from tests.support.places import DATABASE_HELP, temporary_installation
from token_server.config import Settings
from token_server.core.claims import AccessToken, access_token_claims
from token_server.core.status_list import LIST_SIZE, PATH, ListName, position_of
from token_server.logs import configure_logging
from token_server.runtime import Runtime, open_runtime
from token_server.services.metadata import JWKS_PATH, server_metadata
from token_server.services.status_lists import StatusLists
from token_server.storage.status_cache import StatusCache, ensure_status_key
from token_server.verify import StatusChecking, Verifier
from token_server.verify.fetch import FetchResult

AUDIENCE = "https://orders.example"
TOKENS, ROUNDS = 400, 200
REVOKE_ONE = "UPDATE families SET revoked_at = :now, revoked_reason = 'bench' WHERE seq = 1"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU is of this process alone, wall includes the waiting for the database."""

    what: str
    cpu_ms: float
    wall_ms: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one list, in bytes; the median over all."""

    lists: int
    bits: int
    lst: int
    token: int
    token_gzip: int


@dataclass(frozen=True, slots=True)
class Figures:
    sessions: int
    revoked: int
    database: str
    machine: str
    costs: list[Cost]
    sizes: Sizes
    server_memory_kib: int
    permute_us: float
    verifier: "VerifierCost"


@dataclass(frozen=True, slots=True)
class VerifierCost:
    """Of a resource service that holds all lists: µs of CPU for a token that it has seen before,
    and what the lists add to its memory."""

    checked_us: float
    unchecked_us: float
    lists_kib: int


class Published:
    """What the server serves, without a network between."""

    def __init__(self, documents: dict[str, bytes]) -> None:
        self._documents = documents

    def fetch(self, url: str, etag: str | None, timeout_s: float, /) -> FetchResult:  # noqa: ARG002
        return FetchResult(self._documents[url], max_age_s=3600)


def main() -> int:
    options = _parse()
    configure_logging("console", "warning")
    with temporary_installation(options.database) as installation:
        figures = asyncio.run(_measure(installation.settings(), options))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
    _print(figures)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench status", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=1000, help="each of so many is revoked")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


async def _measure(settings: Settings, options: argparse.Namespace) -> Figures:
    await _load(settings, options.sessions, options.every)
    async with open_runtime(settings) as runtime:
        costs, cache = await _follow(runtime)
        memory_kib = await _memory_kib(runtime)
        lists = StatusLists(runtime)
        await runtime.status.follow()
        tokens: list[bytes] = []

        async def sign_all() -> None:
            for name in runtime.status.names():
                signed = await lists.find(name)
                if signed is not None:
                    tokens.append(signed.body)

        count = len(runtime.status.names())
        signing = await _cost("sign every list", sign_all)
        costs += [
            signing,
            Cost("  of which one list", signing.cpu_ms / count, signing.wall_ms / count),
        ]
        names = cache.names()
        entries = [entry for name in names if (entry := cache.find(name)) is not None]
        sizes = Sizes(
            lists=len(names),
            bits=LIST_SIZE // 8,
            lst=int(statistics.median(len(entry.bits.compressed()) for entry in entries)),
            token=int(statistics.median(len(token) for token in tokens)),
            token_gzip=int(statistics.median(len(gzip.compress(token)) for token in tokens)),
        )
        verifier = await _verifier_cost(runtime, dict(zip(names, tokens, strict=True)), options)
        return Figures(
            options.sessions,
            options.sessions // options.every,
            runtime.store.dialect,
            f"{platform.machine()}, Python {platform.python_version()}",
            costs,
            sizes,
            memory_kib,
            _permute_us(),
            verifier,
        )


async def _verifier_cost(
    runtime: Runtime, lists: dict[ListName, bytes], options: argparse.Namespace
) -> VerifierCost:
    issuer, now = runtime.settings.issuer, runtime.clock.now()
    uris = [name.uri(issuer) for name in lists]
    metadata = server_metadata(runtime.settings, ())
    documents = {
        f"{issuer}/.well-known/oauth-authorization-server": json.dumps(metadata).encode(),
        f"{issuer}{JWKS_PATH}": runtime.keyring.jwks(now),
        f"{issuer}{PATH}": json.dumps({"status_lists": uris}).encode(),
        **dict(zip(uris, lists.values(), strict=True)),
    }
    tokens = [
        await _access_token(runtime, seq)
        for seq in range(2, options.sessions, max(1, options.sessions // TOKENS))
        if seq % options.every
    ]

    def started(status: StatusChecking | Literal["off"]) -> tuple[Verifier, int]:
        tracemalloc.start()
        verifier = Verifier(
            issuer=issuer, audience=AUDIENCE, status=status, fetcher=Published(documents)
        )
        for token in tokens:
            verifier.verify_sync(token)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return verifier, held // 1024

    unchecked, kib_without = started("off")
    checked, kib_with = started(StatusChecking(require_status=True))
    rounds = [(_verify_us(checked, tokens), _verify_us(unchecked, tokens)) for _ in range(ROUNDS)]
    quiet = [sorted(column)[ROUNDS // 10] for column in zip(*rounds, strict=True)]
    return VerifierCost(quiet[0], quiet[1], kib_with - kib_without)


async def _access_token(runtime: Runtime, seq: int) -> str:
    now = runtime.clock.now()
    token = AccessToken(
        issuer=runtime.settings.issuer,
        subject="usr_bench",
        audience=(AUDIENCE,),
        client_id="bench",
        scope=("orders:read",),
        issued_at=now,
        expires_at=now + 900,
        jti=f"bench-{seq}",
        sid=f"ses_{seq}",
        auth_time=now,
        status=runtime.status.session_position(seq),
    )
    payload = json.dumps(access_token_claims(token)).encode()
    compact, _ = await runtime.keys.sign_compact(
        "at+jwt", payload, now=now, expires_at=token.expires_at
    )
    return compact


def _verify_us(verifier: Verifier, tokens: list[str]) -> float:
    begun = time.process_time()
    for token in tokens:
        verifier.verify_sync(token)
    return (time.process_time() - begun) / len(tokens) * 1e6


async def _load(settings: Settings, sessions: int, every: int) -> None:
    async with open_runtime(settings) as runtime:  # makes database and keys
        shape = Shape(
            families=sessions,
            expired=0,
            revoked_every=every,
            now=runtime.clock.now(),
            password_hash="",
            mac_version=runtime.master_keys.current,
        )
    await load(settings.database_url.reveal(), shape, tables=("families",))


async def _follow(runtime: Runtime) -> tuple[list[Cost], StatusCache]:
    key = await ensure_status_key(runtime.store, runtime.entropy.token_bytes)
    cache = StatusCache(runtime.store, key, runtime.clock.monotonic)
    costs = [await _cost("read all revocations (a start)", cache.follow)]

    async def again() -> None:
        cache._followed_at = float("-inf")
        await cache.follow()

    rounds = [await _cost("look, nothing new", again) for _ in range(20)]
    costs.append(min(rounds, key=lambda cost: cost.cpu_ms))
    async with runtime.store.write() as connection:
        await connection.execute(text(REVOKE_ONE), {"now": runtime.clock.now()})
    costs.append(await _cost("look, one more revoked", again))
    return costs, cache


async def _memory_kib(runtime: Runtime) -> int:
    """What the lists hold in a server, by the allocator's count."""
    key = await ensure_status_key(runtime.store, runtime.entropy.token_bytes)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cache = StatusCache(runtime.store, key, runtime.clock.monotonic)
    await cache.follow()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held // 1024 if cache.names() else 0


def _permute_us() -> float:
    key, rounds = bytes(32), 20_000
    begun = time.process_time()
    for number in range(rounds):
        position_of("s", number, key)
    return (time.process_time() - begun) / rounds * 1e6


async def _cost(what: str, work: Callable[[], Awaitable[None]]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    await work()
    return Cost(what, (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3)


def _print(figures: Figures) -> None:
    sizes = figures.sizes
    print(f"{figures.sessions:,} sessions, {figures.revoked:,} revoked, {figures.database}")
    print(figures.machine)
    print(f"{sizes.lists} lists of {LIST_SIZE:,} entries ({sizes.bits:,} bytes of bits), each:")
    print(f"  lst {sizes.lst:,} B, token on the wire {sizes.token:,} B")
    print(f"  ({sizes.token_gzip:,} B if a proxy compresses it)")
    print(f"{'':34}{'CPU ms':>10}{'wall ms':>10}")
    for cost in figures.costs:
        print(f"{cost.what:34}{cost.cpu_ms:10.2f}{cost.wall_ms:10.2f}")
    print(f"position of one token: {figures.permute_us:.1f} µs")
    print(f"memory of all lists in a server: {figures.server_memory_kib:,} KiB")
    verifier = figures.verifier
    print(f"memory of all lists in a verifier: {verifier.lists_kib:,} KiB")
    print(
        f"verifying a token seen before: {verifier.checked_us:.2f} µs with its status,"
        f" {verifier.unchecked_us:.2f} µs without; the check"
        f" {verifier.checked_us - verifier.unchecked_us:.2f} µs"
    )


if __name__ == "__main__":
    raise SystemExit(main())
