"""What verifying one access token costs in one process, beside RSA alone and other libraries.

The same tokens for all, from one key server on 127.0.0.1. In rounds: each contender verifies all
tokens once, in random order. CPU time of this thread: the median over the rounds, and the quietest
tenth of them, since on a shared machine the neighbours slow down every median.
"First" verifies tokens that were never seen, "repeated" tokens that were. Asserts nothing.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jwt
from authlib.deprecate import AuthlibDeprecationWarning
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from tests.verify import forge
from tests.verify.key_servers import KeyServer, key_server, random_kid_token, token_of
from tests.verify.list_servers import ListIssuer, status_token
from token_server.verify import TokenError, Verifier
from token_server.verify.compact import split_token
from token_server.verify.strict import decode_base64url

IMPORT = (
    "import time; begun = time.perf_counter(); import token_server.verify;"
    "took = time.perf_counter() - begun; import sys; print(took, len(sys.modules))"
)
RAW = "RSA alone"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    median_us: float
    quiet_us: float  # the 10th percentile of the rounds
    in_rsa: float  # of these, in units of RSA alone


def contenders(served: KeyServer, tokens: list[str]) -> dict[str, Callable[[], None]]:
    """Each verifies all tokens once; what happens between rounds is not measured."""
    uncached = Verifier(issuer=served.issuer, audience=forge.AUDIENCE, cache_size=0)
    repeated = Verifier(issuer=served.issuer, audience=forge.AUDIENCE)
    strangers = [random_kid_token(number) for number in range(len(tokens))]
    for verifier in (uncached, repeated):
        verifier.start_sync()
    for token in tokens:
        repeated.verify_sync(token)

    def strange() -> None:
        for token in strangers:
            try:
                uncached.verify_sync(token)
            except TokenError:
                continue
            raise RuntimeError("a stranger's token was accepted")

    def each(verify: Callable[[str], object]) -> Callable[[], None]:
        def verify_all() -> None:
            for token in tokens:
                verify(token)

        return verify_all

    return {
        RAW: raw_rsa(tokens),
        "ours, first": each(fresh_verifier(served)),
        "ours, first, cache off": each(uncached.verify_sync),
        "ours, repeated": each(repeated.verify_sync),
        "ours, repeated, with status": with_status(len(tokens)),
        "ours, unknown kid refused": strange,
        "PyJWT + PyJWKClient": each(pyjwt(served)),
        "Authlib": each(authlib(served)),
        "joserfc": each(joserfc(served)),
    }


def with_status(count: int) -> Callable[[], None]:
    """Remembered tokens that name an entry of a status list, which is looked up at each use."""
    verifier = ListIssuer().verifier()
    tokens = [status_token(index) for index in range(count)]

    def verify_all() -> None:
        for token in tokens:
            verifier.verify_sync(token)

    verify_all()
    return verify_all


def raw_rsa(tokens: list[str]) -> Callable[[], None]:
    key = forge.private_key("good").public_key()
    padding, digest = PKCS1v15(), SHA256()
    signed = []
    for token in tokens:
        _, _, signature, signing_input = split_token(token, 1 << 14)
        signed.append((decode_base64url(signature), signing_input))

    def verify_all() -> None:
        for signature, content in signed:
            key.verify(signature, content, padding, digest)

    return verify_all


def fresh_verifier(served: KeyServer) -> Callable[[str], object]:
    """With the default cache, which holds fewer tokens than come by in a few rounds: each is
    new to it, and each pays for being remembered and for another one's being forgotten."""
    verifier = Verifier(issuer=served.issuer, audience=forge.AUDIENCE, cache_size=50)
    verifier.start_sync()
    return verifier.verify_sync


def pyjwt(served: KeyServer) -> Callable[[str], object]:
    client = jwt.PyJWKClient(served.jwks_uri)

    def verify(token: str) -> object:
        key = client.get_signing_key_from_jwt(token).key
        return jwt.decode(
            token, key, algorithms=["RS256"], audience=forge.AUDIENCE, issuer=served.issuer
        )

    return verify


def authlib(served: KeyServer) -> Callable[[str], object]:
    # authlib.jose is to end, and says so; many still use it.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.jose import JsonWebKey, JsonWebToken

    keys = JsonWebKey.import_key_set(json.loads(served.answer("/jwks")[2]))
    decoder = JsonWebToken(["RS256"])
    expected = {
        "iss": {"essential": True, "value": served.issuer},
        "aud": {"essential": True, "value": forge.AUDIENCE},
        "exp": {"essential": True},
    }

    def verify(token: str) -> object:
        claims = decoder.decode(token, keys, claims_options=expected)
        claims.validate()
        return claims

    return verify


def joserfc(served: KeyServer) -> Callable[[str], object]:
    keys = KeySet.import_key_set(json.loads(served.answer("/jwks")[2]))
    expected = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": served.issuer},
        aud={"essential": True, "value": forge.AUDIENCE},
        exp={"essential": True},
    )

    def verify(token: str) -> object:
        decoded = joserfc_jwt.decode(token, keys, algorithms=["RS256"])
        expected.validate(decoded.claims)
        return decoded

    return verify


def measure(rounds: int, count: int) -> list[Row]:
    now = int(time.time())
    with key_server() as served:
        tokens = [
            token_of(iss=served.issuer, iat=now, exp=now + 3600, jti=f"Zk3vH0sQb1mN8rT5y{n:05}")
            for n in range(count)
        ]
        runs = contenders(served, tokens)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs.items())
        for index in range(rounds + 1):
            # Whoever comes after RSA alone finds the tokens cold in the processor's caches.
            random.shuffle(order)
            for name, run in order:
                begun = time.thread_time()
                run()
                took = time.thread_time() - begun
                if index > 0:  # the first round warms up
                    seconds[name].append(took / count)
    quiet = {name: statistics.quantiles(took, n=10)[0] for name, took in seconds.items()}
    return [
        Row(
            name=name,
            median_us=1e6 * statistics.median(took),
            quiet_us=1e6 * quiet[name],
            in_rsa=quiet[name] / quiet[RAW],
        )
        for name, took in seconds.items()
    ]


def import_cost() -> dict[str, float]:
    """Of a fresh interpreter: median milliseconds, and how many modules there are afterwards."""
    printed = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        for _ in range(7)
    ]
    took = [run.stdout.split() for run in printed]
    return {
        "import_ms": 1000 * statistics.median(float(seconds) for seconds, _ in took),
        "modules": float(took[0][1]),
    }


def flood(count: int) -> str:
    """`count` tokens with random kids in a minute, a good token after each: how often the key
    server is asked, and what the good tokens take, without them and with them."""
    now = int(time.time())
    with key_server() as served:
        verifier = Verifier(issuer=served.issuer, audience=forge.AUDIENCE, cache_size=0)
        verifier.start_sync()
        good = token_of(iss=served.issuer, iat=now, exp=now + 3600)
        alone = _paced(verifier, good, [], count // 6, 10)
        strangers = [random_kid_token(number) for number in range(count)]
        begun = time.monotonic()
        meanwhile = _paced(verifier, good, strangers, count, 60)
        took_s = time.monotonic() - begun
        stats = verifier.stats().key_sets[0]
    return (
        f"{count} tokens with random kids in {took_s:.0f} s: {stats.kid_refetches} refetches for"
        f" their sake, {stats.absent_kids} of them remembered\n"
        f"good tokens alone: {_quantiles(alone)}\ngood tokens meanwhile: {_quantiles(meanwhile)}"
    )


def _paced(
    verifier: Verifier, good: str, strangers: list[str], count: int, seconds: float
) -> list[float]:
    """Seconds that `count` good tokens took, sorted; at the same pace with strangers and without:
    a process that slept in between is slower than one in a tight loop."""
    took = []
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + seconds * number / count - time.monotonic()))
        if strangers:
            try:
                verifier.verify_sync(strangers[number])
            except TokenError:
                pass
            else:
                raise RuntimeError("a stranger's token was accepted")
        started = time.perf_counter()
        verifier.verify_sync(good)
        took.append(time.perf_counter() - started)
    return sorted(took)


def _quantiles(seconds: list[float]) -> str:
    shown = (0.5, 0.9, 0.99)
    return ", ".join(f"p{q * 100:.0f} {1e6 * seconds[int(len(seconds) * q)]:.0f} µs" for q in shown)


def table(rows: list[Row]) -> str:
    lines = [f"{'':<28}{'median µs':>11}{'quiet µs':>11}{'in RSA':>9}{'per s':>11}"]
    lines += [
        f"{row.name:<28}{row.median_us:>11.2f}{row.quiet_us:>11.2f}{row.in_rsa:>9.2f}"
        f"{1e6 / row.quiet_us:>11.0f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench verify", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100, help="different ones, for each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--flood", type=int, metavar="N", help="instead: N random kids in a minute")
    options = parser.parse_args()
    if options.flood is not None:
        print(flood(options.flood))
        return 0
    rows = measure(options.rounds, options.tokens)
    cost = import_cost()
    print(table(rows))
    print(f"import token_server.verify: {cost['import_ms']:.1f} ms, {cost['modules']:.0f} modules")
    if options.json is not None:
        figures: dict[str, Any] = {
            "python": platform.python_version(),
            "rounds": options.rounds,
            "tokens": options.tokens,
            "rows": [asdict(row) for row in rows],
            **cost,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
