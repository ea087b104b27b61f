"""Compares what replicas, gateways and caches serve as JWKS with the keyring; says what to mend.

Looks at what a verifier would see: which keys, under which headers, at what time of day. Decides
on answers that were fetched (cli/http_client.py); fetches nothing, follows nothing, changes
nothing. RFC 7517 5, RFC 9111 5.2.2, RFC 9110 6.6.1.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from token_server.core.key_changes import Situation
from token_server.core.key_lifecycle import published_keys
from token_server.crypto import rsa_keys
from token_server.errors import OperatorError
from token_server.records import KeyState, SigningKey
from token_server.services.metadata import JWKS_PATH

_CONTENT_TYPES = ("application/json", "application/jwk-set+json")
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})\b", re.IGNORECASE)
_MOST_KEYS = 100
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """What one address answered; `problem` when it gave none that can be looked at."""

    url: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = field(default=b"", repr=False)
    received_at: float = 0.0  # by the clock of this machine
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """One line of the report; `fix` is empty when there is nothing to do."""

    level: Literal["ok", "warn", "fail"]
    check: str
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """What is to be said of one address."""

    url: str
    kids: tuple[str, ...]
    clock_difference_s: int | None  # its clock minus ours; None when it does not say
    findings: tuple[KeyFinding, ...]


@dataclass(frozen=True, slots=True)
class JwksReport:
    """All addresses against one keyring. `ok` when nothing failed; warnings do not count."""

    ok: bool
    keyring_id: str
    expected: tuple[str, ...]  # kids that belong in the JWKS now
    replicas: tuple[Replica, ...]


def jwks_url(address: str) -> str:
    """The address of the JWKS, from it or from the base URL of a server. OperatorError when it is
    neither."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise _no_address(address) from None
    is_plain = "#" not in address and all(ord(text) > 32 for text in address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise _no_address(address)
    if parts.path.endswith(".json"):
        return address
    if "?" in address:
        raise OperatorError(
            f"{_shown(address)} has a query: name the JWKS itself, or the base URL", exit_code=2
        )
    return address.rstrip("/") + JWKS_PATH


def _no_address(address: str) -> OperatorError:
    return OperatorError(
        f"{_shown(address)} is no address such as https://auth.example", exit_code=2
    )


def examine_jwks(situation: Situation, keyring_id: str, answers: Sequence[Answer]) -> JwksReport:
    """Compare the answers with the keyring as it is stored now."""
    replicas = tuple(_examine(situation, answer) for answer in answers)
    return JwksReport(
        ok=all(finding.level != "fail" for one in replicas for finding in one.findings),
        keyring_id=keyring_id,
        expected=tuple(key.kid for key in published_keys(situation.keys, situation.now)),
        replicas=replicas,
    )


def _examine(situation: Situation, answer: Answer) -> Replica:
    if answer.problem is not None:
        return _failed(answer, KeyFinding("fail", "answer", answer.problem))
    if answer.status != 200:
        return _failed(answer, _no_success(answer))
    difference_s = _clock_difference_s(answer)
    findings = [*_header_findings(situation, answer, difference_s)]
    try:
        served = _read_jwks(answer.body)
    except _NoJwksError as error:
        fix = "this is not the address of a JWKS, or something in between answers for it"
        return Replica(
            answer.url, (), difference_s, (KeyFinding("fail", "jwks", str(error), fix), *findings)
        )
    findings = [*_key_findings(situation, served, answer), *findings]
    kids = tuple(str(jwk.get("kid", "")) for jwk in served)
    return Replica(answer.url, kids, difference_s, tuple(findings))


def _failed(answer: Answer, finding: KeyFinding) -> Replica:
    return Replica(answer.url, (), None, (finding,))


def _no_success(answer: Answer) -> KeyFinding:
    if 300 <= answer.status < 400:
        target = _shown(answer.headers.get("location", ""))
        return KeyFinding(
            "fail",
            "redirect",
            f"answers {answer.status} to {target}",
            "serve the JWKS itself: many verifiers follow no redirect, and none should",
        )
    return KeyFinding("fail", "answer", f"answers with status {answer.status}")


class _NoJwksError(ValueError):
    """The body is no JWK Set; the message says how."""


def _read_jwks(body: bytes) -> list[dict[str, object]]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _NoJwksError("the body is not JSON") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise _NoJwksError('the body is no JWK Set: it has no list "keys" (RFC 7517 5)')
    if len(keys) > _MOST_KEYS:
        raise _NoJwksError(f"the set has more than {_MOST_KEYS} keys")
    return keys


def _key_findings(
    situation: Situation, served: list[dict[str, object]], answer: Answer
) -> list[KeyFinding]:
    findings = [*_misuse(served)]
    by_kid = {str(jwk.get("kid", "")): jwk for jwk in served}
    for key in published_keys(situation.keys, situation.now):
        jwk = by_kid.get(key.kid)
        if jwk is None:
            findings.append(_missing(situation, key, answer))
        elif not _is_same(jwk, key):
            findings.append(
                KeyFinding(
                    "fail",
                    "key",
                    f"{key.kid} is another key than the one of that name in the keyring",
                    "find out who put it there: whoever holds its private half can make tokens",
                )
            )
    for kid in by_kid:
        findings += _surplus(situation, kid)
    if not findings:
        findings.append(KeyFinding("ok", "keys", f"{len(served)} keys, as in the keyring"))
    return findings


def _misuse(served: list[dict[str, object]]) -> list[KeyFinding]:
    findings = []
    if any(_PRIVATE_MEMBERS & jwk.keys() for jwk in served):
        fix = "take it down; then `token-server keys compromise KID`"
        findings.append(KeyFinding("fail", "private", "a PRIVATE key is published", fix))
    repeated = [
        kid for kid, count in Counter(str(jwk.get("kid")) for jwk in served).items() if count > 1
    ]
    if repeated:
        names = ", ".join(_shown(kid) for kid in repeated)
        findings.append(KeyFinding("fail", "keys", f"more than one key is called {names}"))
    return findings


def _is_same(jwk: Mapping[str, object], key: SigningKey) -> bool:
    expected = rsa_keys.public_jwk(key.kid, key.n, key.e)
    return all(jwk.get(name) == expected[name] for name in ("kty", "n", "e"))


def _missing(situation: Situation, key: SigningKey, answer: Answer) -> KeyFinding:
    state = situation.state(key)
    policy = situation.policy
    published_at = key.published_at or situation.now
    if state is KeyState.NEXT and situation.now - published_at <= policy.least_lead_s:
        detail = f"{key.kid} ({state}) is not there yet; it was made a moment ago"
        return KeyFinding("warn", "keys", detail, "look again in a few minutes")
    costs = {
        KeyState.NEXT: "it will be unknown when it begins to sign",
        KeyState.ACTIVE: "new tokens are refused by whoever asks here",
        KeyState.RETIRING: "tokens that it signed are still alive and are refused",
    }
    is_cached = "age" in answer.headers
    fix = "purge the cache in front of it" if is_cached else "does this server use the same keys?"
    return KeyFinding("fail", "keys", f"{key.kid} ({state}) is missing: {costs[state]}", fix)


def _surplus(situation: Situation, kid: str) -> list[KeyFinding]:
    key = situation.find(kid)
    if key is None:
        fix = "another keyring, or a foreign key: its holder can make tokens for whoever asks here"
        detail = f"{_shown(kid)} is served, but the keyring has no such key"
        return [KeyFinding("fail", "keys", detail, fix)]
    match situation.state(key):
        case KeyState.COMPROMISED:
            fix = "purge every cache in front of it and restart what does not follow"
            return [KeyFinding("fail", "keys", f"{kid} is compromised and still served", fix)]
        case KeyState.RETIRED:
            detail = f"{kid} is retired and still served: an old copy"
            return [KeyFinding("warn", "keys", detail, "shorten the cache in front of it")]
        case _:
            return []


def _header_findings(
    situation: Situation, answer: Answer, difference_s: int | None
) -> list[KeyFinding]:
    headers, policy = answer.headers, situation.policy
    findings = [*_cache_findings(headers.get("cache-control"), policy.jwks_max_age_s)]
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _CONTENT_TYPES:
        detail = f"Content-Type is {_shown(content_type) or 'missing'}"
        findings.append(KeyFinding("warn", "content-type", detail, f"send {_CONTENT_TYPES[0]}"))
    if not headers.get("etag"):
        detail = "no ETag: verifiers fetch the whole set each time"
        findings.append(KeyFinding("warn", "etag", detail, "let the proxy pass it on"))
    if headers.get("access-control-allow-origin") != "*":
        detail = "no Access-Control-Allow-Origin: *, so pages of other origins cannot verify"
        findings.append(KeyFinding("warn", "cors", detail, "let the proxy pass it on"))
    if difference_s is not None and abs(difference_s) > policy.clock_skew_s:
        detail = (
            f"its clock differs by {difference_s:+d} s, CLOCK_SKEW allows {policy.clock_skew_s}"
        )
        findings.append(KeyFinding("fail", "clock", detail, "synchronise the clocks (NTP)"))
    return findings


def _cache_findings(cache_control: str | None, promised_s: int) -> list[KeyFinding]:
    found = _MAX_AGE.search(cache_control or "")
    if cache_control is None or (found is None and "no-" not in cache_control):
        detail = "no Cache-Control: max-age: each verifier guesses how long to keep the keys"
        return [KeyFinding("warn", "cache", detail, "let the proxy pass it on")]
    if found is None:
        detail = f"Cache-Control is {_shown(cache_control)}: every verification may fetch"
        return [KeyFinding("warn", "cache", detail, "let the proxy pass the server's on")]
    if int(found[1]) > promised_s:
        detail = f"max-age is {found[1]} s, more than JWKS_MAX_AGE ({promised_s} s)"
        fix = "KEY_LEAD counts on JWKS_MAX_AGE: raise it, or let the proxy pass the server's on"
        return [KeyFinding("fail", "cache", detail, fix)]
    return []


def _clock_difference_s(answer: Answer) -> int | None:
    """Its clock minus ours, to a second or two. A cached answer is as old as `Age` says."""
    try:
        sent_at = parsedate_to_datetime(answer.headers["date"]).timestamp()
        age_s = int(answer.headers.get("age", "0"))
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    difference_s = sent_at + age_s - answer.received_at
    # The header has whole seconds, and the answer took its time.
    return 0 if abs(difference_s) < 2 else round(difference_s)


def _shown(text: str) -> str:
    """Something foreign, as it may stand in a message."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return ascii(short)[1:-1]
