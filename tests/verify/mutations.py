"""Mutated access tokens, from a seed: bent texts, and bent headers and claims signed anew.

Where only the text is bent, the signature catches nearly everything; so most are signed again by
the key that the verifier trusts, and the flaw is what has to be noticed.
"""

import json
from collections.abc import Callable, Iterator
from random import Random

from tests.verify import forge

_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**30, 1.5, 1e300, "", " ", "a", "\0"),
    *("\u00e4", "\ud83d\ude00", [], [None], ["a"], [[]], {}, {"a": 1}, "RS256", "none", "at+jwt"),
    *(forge.NOW, str(forge.NOW), float(forge.NOW), forge.NOW + 1, forge.NOW - 1, forge.NOW + 10**6),
    *(forge.ISSUER, forge.AUDIENCE, [forge.AUDIENCE], [forge.AUDIENCE, 7], forge.ISSUER + "/"),
)
_HEADER_NAMES = (
    *("alg", "typ", "kid", "crit", "b64", "jku", "jwk", "x5u", "x5c", "x5t", "cty", "zip", "enc"),
    *("Alg", "x", "", "p2c", "epk"),
)
_HEADER_VALUES: dict[str, tuple[object, ...]] = {
    "alg": ("RS384", "RS512", "PS256", "ES256", "HS256", "none", "None", "rs256", "EdDSA"),
    "typ": ("JWT", "AT+JWT", "application/at+jwt", "at+jwt ", "logout+jwt", "id_token"),
    "crit": (["exp"], ["b64"], ["alg"], ["x"]),
    "b64": (True, False),
}
_ALPHABET = "ABCXYZabcxyz0189-_=.+/ \n\t\0%\u00e9"


def mutated_tokens(count: int, seed: int) -> Iterator[str]:
    """`count` tokens; the first is good, so that a judge who refuses everything is found out."""
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    good = forge.token()
    yield good
    for _ in range(count - 1):
        yield random.choice(_KINDS)(random, good)


def _bent_text(random: Random, good: str) -> str:
    start = random.randrange(len(good))
    end = start + random.choice((0, 0, 1, 1, 1, 2, 5, 50))
    new = "".join(random.choice(_ALPHABET) for _ in range(random.choice((0, 1, 1, 1, 2, 4))))
    return good[:start] + new + good[end:]


def _bent_segments(random: Random, good: str) -> str:
    parts = good.split(".")
    kind = random.randrange(6)
    if kind == 0:
        random.shuffle(parts)
    elif kind == 1:
        parts.insert(random.randrange(4), random.choice(parts))
    elif kind == 2:
        del parts[random.randrange(3)]
    elif kind == 3:
        parts[random.randrange(3)] = ""
    elif kind == 4:
        parts[random.randrange(3)] += "=" * random.randrange(1, 5)
    else:
        parts[2] = forge.b64(random.randbytes(random.choice((0, 32, 255, 256, 257))))
    return ".".join(parts)


def _bent_header(random: Random, _good: str) -> str:
    header: dict[str, object] = forge.header()
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(_HEADER_NAMES)
        choices = (*_HEADER_VALUES.get(name, ()), forge.REMOVED, random.choice(_VALUES))
        header = forge.changed(header, {name: random.choice(choices)})
    return _sealed(random, forge.compact_json(header), forge.compact_json(forge.claims()))


def _bent_claims(random: Random, _good: str) -> str:
    names = [*forge.claims(), "nbf", "cnf", "act", "x"]
    changes = {
        random.choice(names): random.choice((forge.REMOVED, *_VALUES))
        for _ in range(random.choice((1, 1, 2)))
    }
    claims = forge.compact_json(forge.claims(**changes))
    return _sealed(random, forge.compact_json(forge.header()), claims)


def _bent_json(random: Random, _good: str) -> str:
    parts = [bytearray(forge.compact_json(part)) for part in (forge.header(), forge.claims())]
    text = random.choice(parts)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(text))
        piece = random.choice((b"", b'"', b"{", b"}", b"\\", b",", b"\xff", b" ", b"0", b"\\ud800"))
        text[place : place + random.choice((0, 1, 1, 3))] = piece
    return _sealed(random, bytes(parts[0]), bytes(parts[1]))


def _repeated_member(random: Random, _good: str) -> str:
    claims = forge.claims()
    name = random.choice(list(claims))
    value = json.dumps(random.choice((claims[name], *_VALUES)))
    text = forge.compact_json(claims)[:-1] + f',"{name}":{value}}}'.encode()
    return forge.seal_bytes(forge.compact_json(forge.header()), text)


def _other_key(_random: Random, _good: str) -> str:
    return forge.token(key="other")


def _sealed(random: Random, header: bytes, claims: bytes) -> str:
    encoding = random.choice(("plain",) * 8 + ("bom", "utf-16", "space"))
    if encoding == "bom":
        claims = b"\xef\xbb\xbf" + claims
    elif encoding == "utf-16":
        claims = claims.decode("utf-8", "replace").encode("utf-16")
    elif encoding == "space":
        claims = b" \n" + claims + b"\t"
    return forge.seal_bytes(header, claims)


_KINDS: tuple[Callable[[Random, str], str], ...] = (
    *(_bent_text, _bent_segments, _bent_header, _bent_header, _bent_claims, _bent_claims),
    *(_bent_json, _bent_json, _repeated_member, _other_key),
)
