"""Turns the text of one setting into its value, and says what is allowed when it cannot.

Also the rules between settings, and the forms in which values are shown: durations with their
unit, database addresses without their password. Nothing here reads files or the environment.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from token_server.config import IPNetwork, Setting, Settings
from token_server.records import Secret

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DATABASE_SCHEMES = ("sqlite", "sqlite+aiosqlite", "postgresql", "postgres")
POSTGRES_DRIVERS = ("postgresql+asyncpg", "postgresql+psycopg")
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
HASH_QUEUE_PER_SLOT = 32
LEAST_HASH_QUEUE_PER_SLOT = 4
USUAL_HASH_WORK_KIB = 19456 * 2  # memory x passes of the default cost
ISSUER_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class ValueProblemError(ValueError):
    """The text is not a value of the setting; the message begins with "must"."""


def parse_value(setting: Setting, text: str) -> Any:
    """The value of `text` for this setting; raises ValueProblemError."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueProblemError("must not hold line breaks or other control characters")
    special = SPECIAL_PARSERS.get(setting.name)
    if special is not None:
        return special(text)
    if setting.choices:
        return _parse_choice(setting, text)
    if setting.type is int:
        return _parse_number(setting, text)
    if not text:
        raise ValueProblemError("must not be empty")
    return Path(text) if setting.type is Path else text


def _parse_choice(setting: Setting, text: str) -> str | int:
    if text not in setting.choices:
        raise ValueProblemError(f"must be {' or '.join(setting.choices)}")
    return int(text) if text.isdigit() else text


def _parse_number(setting: Setting, text: str) -> int:
    low, high = setting.low or 0, setting.high or 0
    pattern = r"([0-9]{1,12})([smhd]?)" if setting.is_duration else r"([0-9]{1,12})()"
    match = re.fullmatch(pattern, text)
    value = int(match[1]) * UNITS_S.get(match[2], 1) if match else -1
    if not low <= value <= high:
        if setting.is_duration:
            allowed = f"between {format_duration(low)} and {format_duration(high)}"
            raise ValueProblemError(
                f"must be seconds or a duration such as 30s, 15m, 7d, {allowed}"
            )
        raise ValueProblemError(f"must be a whole number between {low} and {high}")
    return value


def parse_issuer(text: str) -> str:
    """An issuer that compares byte for byte wherever it is used (RFC 8414 §2, RFC 9207)."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueProblemError("must be a URL such as https://auth.example.com") from None
    if parts.scheme not in ("https", "http") or not host or not text.isascii():
        raise ValueProblemError("must be a URL such as https://auth.example.com")
    if "?" in text or "#" in text or "@" in text:
        raise ValueProblemError("must have no query, fragment or user name")
    if not ISSUER_PATH.fullmatch(parts.path):
        raise ValueProblemError(
            "must have no trailing slash, empty path segment or percent-encoding"
        )
    if any(segment in (".", "..") for segment in parts.path.split("/")):
        raise ValueProblemError("must have no . or .. in its path")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueProblemError("must start with https:// (http:// only on 127.0.0.1 or localhost)")
    default_port = {"https": 443, "http": 80}[parts.scheme]
    shown_host = f"[{host}]" if ":" in host else host
    location = shown_host if port in (None, default_port) else f"{shown_host}:{port}"
    plain = f"{parts.scheme}://{location}{parts.path}"
    if plain != text or not (_is_address(host) or HOST_NAME.fullmatch(host)):
        raise ValueProblemError(f"must be written plainly, in lower case: {plain}")
    return text


def origin_of(issuer: str) -> str:
    """Scheme, host and port, as a browser sends them in `Origin` (RFC 6454 §6.2)."""
    scheme, _, rest = issuer.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def parse_address(text: str) -> str:
    """HOST:PORT with an IP address or `localhost`; port 0 takes a free one."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):([0-9]{1,5})", text)
    host = match[1].strip("[]") if match else ""
    if match is None or int(match[2]) > 65535 or not (host == "localhost" or _is_address(host)):
        raise ValueProblemError(
            "must be an IP address (or localhost) and a port: 127.0.0.1:8080, 0.0.0.0:80, [::]:80"
        )
    return text


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def follow_bind(bind: str) -> str:
    """The issuer of a dev server that listens on `bind`."""
    host, port = split_address(bind)
    return f"http://127.0.0.1:{port}" if host in ("0.0.0.0", "::") else f"http://{bind}"  # noqa: S104 - a comparison


def parse_database_url(text: str) -> Secret[str]:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in (*DATABASE_SCHEMES, *POSTGRES_DRIVERS):
        raise ValueProblemError(
            "must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME"
        )
    if scheme.startswith("sqlite"):
        if not rest.startswith("/") or rest in ("/", "//") or ":memory:" in rest or "?" in rest:
            raise ValueProblemError(
                "must name a file: sqlite:///data/token-server.db, or with four slashes an "
                "absolute path: sqlite:////var/lib/token-server/token-server.db"
            )
    elif not re.search(r"[^/]*/[^/?]+", rest):
        raise ValueProblemError("must name a database: postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return Secret(text)


def _parse_networks(text: str) -> tuple[IPNetwork, ...]:
    networks = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueProblemError(
                "must be addresses or networks with commas between: 10.0.0.0/8,192.168.1.7"
            ) from None
        if networks[-1].prefixlen == 0:
            raise ValueProblemError("must not trust every address on the Internet")
    return tuple(networks)


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(filter(None, (part.strip() for part in text.split(","))))
    for origin in origins:
        parse_issuer(origin)
        if origin_of(origin) != origin:
            raise ValueProblemError("must be origins without a path: https://app.example.com")
    return origins


def _parse_audience(text: str) -> str:
    if not text or any(character.isspace() for character in text) or len(text) > 512:
        raise ValueProblemError("must be one identifier without spaces, such as a URL")
    return text


SPECIAL_PARSERS: dict[str, Callable[[str], Any]] = {
    "issuer": parse_issuer,
    "bind": parse_address,
    "management_bind": parse_address,
    "database_url": parse_database_url,
    "trusted_proxies": _parse_networks,
    "browser_origins": _parse_origins,
    "default_audience": _parse_audience,
}


def least_key_lead_s(jwks_max_age_s: int, key_reload_interval_s: int, clock_skew_s: int) -> int:
    """The shortest time after which every verifier that honours our caching knows a new key."""
    return 2 * jwks_max_age_s + key_reload_interval_s + clock_skew_s


def usual_hash_queue(slots: int, work_kib: int) -> int:
    """A queue of about a second on a small cloud machine; `work_kib` is memory x passes.

    Dearer hashes get a shorter one: who waits for many seconds has gone before the answer.
    """
    per_slot = HASH_QUEUE_PER_SLOT * USUAL_HASH_WORK_KIB // work_kib
    return slots * min(max(per_slot, LEAST_HASH_QUEUE_PER_SLOT), HASH_QUEUE_PER_SLOT)


def check_together(settings: Settings) -> list[str]:
    """Problems that lie between settings, each with what to change."""
    problems = []
    if settings.refresh_idle_ttl_s > settings.refresh_absolute_ttl_s:
        problems.append(
            f"REFRESH_IDLE_TTL ({format_duration(settings.refresh_idle_ttl_s)}) must not be longer "
            f"than REFRESH_ABSOLUTE_TTL ({format_duration(settings.refresh_absolute_ttl_s)})"
        )
    least = least_key_lead_s(
        settings.jwks_max_age_s, settings.key_reload_interval_s, settings.clock_skew_s
    )
    if settings.key_lead_s < least:
        problems.append(
            f"KEY_LEAD must be at least {least}s (2 x JWKS_MAX_AGE + KEY_RELOAD_INTERVAL + "
            "CLOCK_SKEW): sooner, a new key would sign before verifiers know it"
        )
    if settings.key_rotate_every_s <= settings.key_lead_s:
        problems.append("KEY_ROTATE_EVERY must be longer than KEY_LEAD")
    if settings.argon2_memory_kib < 8 * settings.argon2_parallelism:
        problems.append(
            f"ARGON2_MEMORY_KIB must be at least {8 * settings.argon2_parallelism} "
            "(8 x ARGON2_PARALLELISM)"
        )
    if settings.password_min_length > settings.password_max_length:
        problems.append("PASSWORD_MIN_LENGTH must not be greater than PASSWORD_MAX_LENGTH")
    if settings.bind == settings.management_bind and split_address(settings.bind)[1] != 0:
        problems.append("BIND and MANAGEMENT_BIND must not be the same address and port")
    return problems


def format_duration(seconds: int) -> str:
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS_S[unit] == 0:
            return f"{seconds // UNITS_S[unit]}{unit}"
    return f"{seconds}s"


def hide_password(database_url: str) -> str:
    """The address of the database as it may be shown: no password, no query values."""
    scheme, _, rest = database_url.partition("://")
    if scheme.startswith("sqlite"):
        return database_url
    plain, question, _ = rest.partition("?")
    credentials, at, location = plain.rpartition("@")
    user = credentials.partition(":")[0]
    shown = f"{user}:***@{location}" if at else location
    return f"{scheme}://{shown}{question and '?***'}"


def show_value(setting: Setting, value: Any) -> str:
    """The value as a person would write it; the inverse of `parse_value` but for secrets."""
    if isinstance(value, Secret):
        return hide_password(value.reveal())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return format_duration(value) if setting.is_duration else str(value)
