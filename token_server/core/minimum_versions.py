"""Below which version of a dependency a published advisory applies.

Kept by hand and by reading, since the tools that ask a vulnerability service see nothing on
machines without the Internet. Names are normalised (PEP 503). Whether an advisory reaches this
server is not weighed: an old version is named, and so is the version that mends it. docs/
supply-chain.md is this table for readers; a test compares the two with pins, bounds and what runs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Minimum:
    """The first version without any of these advisories."""

    name: str
    version: str
    advisories: tuple[str, ...]
    about: str


# What the server or `verify` may load.
RUNTIME = (
    Minimum("certifi", "2024.7.4", ("CVE-2024-39689", "CVE-2023-37920"), "withdrawn roots"),
    Minimum("click", "8.3.3", ("CVE-2026-7246",), "commands injected through click.edit"),
    Minimum(
        "cryptography",
        "50.0.0",
        ("CVE-2026-69247", "GHSA-537c-gmf6-5ccf", "CVE-2026-39892", "CVE-2026-26007"),
        "a PKCS#7 oracle; OpenSSL in the wheels; buffer overflow; weak curves",
    ),
    Minimum("h11", "0.16.0", ("CVE-2025-43859",), "request smuggling by lenient chunked bodies"),
    Minimum(
        "httptools", "0.6.0", ("CVE-2023-30589", "CVE-2022-32215"), "request smuggling in llhttp"
    ),
    Minimum("httpx", "0.23.0", ("CVE-2021-41945",), "URLs mixed up in `copy_with`"),
    Minimum("idna", "3.15", ("CVE-2026-45409", "CVE-2024-3651"), "quadratic time of `encode`"),
    Minimum(
        "litestar",
        "2.20.0",
        ("CVE-2026-25478", "CVE-2026-25479", "CVE-2026-25480", "CVE-2025-59152", "CVE-2024-52581"),
        "host and CORS lists as patterns, cache keys that collide, spoofed rate limits, form bombs",
    ),
    Minimum(
        "mako",
        "1.4.2",
        ("CVE-2026-102991", "CVE-2026-44307", "CVE-2026-41205", "CVE-2022-40023"),
        "path traversal of template names, slow patterns",
    ),
    Minimum("markdown-it-py", "2.2.0", ("CVE-2023-26302", "CVE-2023-26303"), "crashes on input"),
    Minimum("multipart", "1.3.1", ("CVE-2026-28356",), "slow pattern for header options"),
    Minimum("pygments", "2.15.1", ("CVE-2022-40896",), "slow patterns"),
    Minimum("pynacl", "1.6.2", ("CVE-2025-69277",), "libsodium takes points off the main group"),
    Minimum("pyyaml", "5.4", ("CVE-2020-14343",), "code execution by full_load"),
    Minimum("sqlalchemy", "1.3.0", ("CVE-2019-7164", "CVE-2019-7548"), "SQL in order_by, group_by"),
    Minimum("uvicorn", "0.11.7", ("CVE-2020-7694", "CVE-2020-7695"), "log and header injection"),
)

# What only tests and examples load.
TESTS = (
    Minimum(
        "authlib",
        "1.9.0",
        ("PYSEC-2026-4358", "PYSEC-2026-4360", "CVE-2026-27962", "CVE-2026-28802"),
        "assertions for others taken, unfiltered request_uri, keys out of headers, alg none",
    ),
    Minimum("flask", "3.1.3", ("CVE-2026-27205", "CVE-2025-47278"), "caches and key rotation"),
    Minimum("grpcio", "1.65.4", ("CVE-2024-7246",), "HPACK table poisoning behind proxies"),
    Minimum("jinja2", "3.1.6", ("CVE-2025-27516",), "out of the sandbox by |attr"),
    Minimum("joserfc", "1.6.3", ("CVE-2026-27932", "CVE-2025-65015"), "unbounded PBES2 and input"),
    Minimum(
        "pyjwt",
        "2.15.0",
        ("CVE-2026-101918", "CVE-2026-102273", "CVE-2026-48526", "CVE-2026-32597"),
        "state of unverified decodes, public keys as HMAC secrets, `crit` ignored",
    ),
    Minimum("pytest", "9.0.3", ("CVE-2025-71176",), "guessable directory names in /tmp"),
    Minimum("requests", "2.33.0", ("CVE-2026-25645", "CVE-2024-47081"), "temporary files, .netrc"),
    Minimum("sqlparse", "0.5.0", ("CVE-2024-4340",), "deep nesting"),
    Minimum("starlette", "1.0.1", ("CVE-2026-48710", "CVE-2025-62727"), "path of a forged Host"),
    Minimum("urllib3", "2.6.3", ("CVE-2026-21441", "CVE-2025-66418"), "decompression bombs"),
    Minimum("werkzeug", "3.1.6", ("CVE-2026-27199", "CVE-2025-66221"), "device names of Windows"),
)

_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)(.*)", re.IGNORECASE)
_BEFORE_RELEASE = re.compile(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)", re.IGNORECASE)


def below_minimum(
    installed: Mapping[str, str], table: Iterable[Minimum] = RUNTIME
) -> tuple[tuple[Minimum, str], ...]:
    """What is too old, with the version that is there; `installed` is by normalised name."""
    return tuple(
        (minimum, installed[minimum.name])
        for minimum in table
        if minimum.name in installed and is_older(installed[minimum.name], minimum.version)
    )


def is_older(version: str, minimum: str) -> bool:
    """By release numbers; a pre-release is older than its release, and what is no version too."""
    found, least = _parts(version), _parts(minimum)
    width = max(len(found[0]), len(least[0]))
    return (_padded(found[0], width), found[1]) < (_padded(least[0], width), least[1])


def normalized(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _parts(version: str) -> tuple[tuple[int, ...], bool]:
    """The numbers, and whether it is the release itself or later."""
    match = _RELEASE.match(version)
    if match is None:
        return ((), False)
    numbers = tuple(int(part) for part in match[1].split("."))
    return numbers, _BEFORE_RELEASE.match(match[2]) is None


def _padded(numbers: tuple[int, ...], width: int) -> tuple[int, ...]:
    return numbers + (0,) * (width - len(numbers))
