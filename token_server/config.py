"""Settings: one frozen struct, and what is known of each field; config_loading.py fills it.

Every field names its unit; the name outside is the field without its `_s`: `access_token_ttl_s`
is TOKEN_SERVER_ACCESS_TOKEN_TTL, `--access-token-ttl`, and `access_token_ttl` in TOML.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from token_server.records import Secret

Mode = Literal["dev", "serve", "tool"]
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = "TOKEN_SERVER_"
DAY_S = 86400


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    mode: Mode  # "tool" is every command that serves nothing
    issuer: Annotated[
        str,
        Meta(description="The `iss` of every token, and the start of every URL; https."),
    ] = "http://127.0.0.1:8080"
    bind: Annotated[str, Meta(description="Address and port of the public listener.")] = (
        "127.0.0.1:8080"
    )
    management_bind: Annotated[
        str, Meta(description="Address and port of /metrics and verbose health; keep it private.")
    ] = "127.0.0.1:9001"
    database_url: Annotated[
        Secret[str], Meta(description="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME.")
    ]
    keys_dir: Annotated[Path, Meta(description="Directory of the signing keys.")] = Path("keys")
    key_store: Annotated[
        Literal["directory", "database"], Meta(description="Where signing keys live.")
    ] = "directory"
    master_key_file: Annotated[
        Path, Meta(description="Key that encrypts signing keys; by default KEYS_DIR/master.key.")
    ] = Path("keys/master.key")
    workers: Annotated[
        int, Meta(description="Server processes; several with PostgreSQL only.", ge=1, le=64)
    ] = 1
    access_token_ttl_s: Annotated[
        int, Meta(description="Life of an access token.", ge=1, le=DAY_S)
    ] = 900
    refresh_idle_ttl_s: Annotated[
        int, Meta(description="A session ends when unused for so long.", ge=1, le=400 * DAY_S)
    ] = 7 * DAY_S
    refresh_absolute_ttl_s: Annotated[
        int, Meta(description="A session ends after so long, used or not.", ge=1, le=400 * DAY_S)
    ] = 30 * DAY_S
    refresh_replay_window_s: Annotated[
        int,
        Meta(
            description="A spent refresh token is answered again for so long; 0: never.",
            ge=0,
            le=300,
        ),
    ] = 30
    default_audience: Annotated[
        str, Meta(description="`aud` for clients without one of their own; by default the issuer.")
    ]
    access_token_typ: Annotated[
        Literal["at+jwt", "JWT"], Meta(description="`typ` header; JWT for verifiers that need it.")
    ] = "at+jwt"
    registration: Annotated[
        Literal["open", "closed"], Meta(description="Whether strangers may make an account.")
    ] = "closed"
    registration_silent: Annotated[
        Literal["no", "yes"],
        Meta(description="Never say that an e-mail is taken; new accounts wait for `user enable`."),
    ] = "no"
    browser_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins whose pages may use the refresh cookie."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[IPNetwork, ...],
        Meta(description="Proxies (addresses, networks) whose forwarded headers count."),
    ] = ()
    password_min_length: Annotated[
        int, Meta(description="Shortest password; NIST SP 800-63B-4 says 15.", ge=8, le=256)
    ] = 8
    password_max_length: Annotated[int, Meta(description="Longest password.", ge=64, le=1024)] = 100
    argon2_memory_kib: Annotated[
        int, Meta(description="Memory of one password hash, in KiB.", ge=8, le=4 * 1024 * 1024)
    ] = 19456
    argon2_time_cost: Annotated[
        int, Meta(description="Passes of one password hash.", ge=1, le=100)
    ] = 2
    argon2_parallelism: Annotated[
        int, Meta(description="Lanes of one password hash.", ge=1, le=16)
    ] = 1
    password_hash_slots: Annotated[
        int, Meta(description="Password hashes at a time; by default the cores.", ge=1, le=256)
    ] = 1
    password_hash_queue: Annotated[
        int,
        Meta(description="Password hashes that may wait; beyond them 503.", ge=0, le=10_000),
    ] = 32
    guess_alarm_per_minute: Annotated[
        int,
        Meta(
            description="Failed guesses in a minute, in all, at which the audit trail says so.",
            ge=1,
            le=1_000_000,
        ),
    ] = 300
    key_lead_s: Annotated[
        int,
        Meta(
            description="A new key is published for so long before it signs.", ge=1, le=90 * DAY_S
        ),
    ] = DAY_S
    key_rotate_every_s: Annotated[
        int, Meta(description="Age at which a signing key is replaced.", ge=60, le=3650 * DAY_S)
    ] = 90 * DAY_S
    key_bits: Annotated[Literal[2048, 3072, 4096], Meta(description="Size of new RSA keys.")] = 2048
    jwks_max_age_s: Annotated[
        int, Meta(description="How long verifiers may cache the public keys.", ge=1, le=DAY_S)
    ] = 300
    key_reload_interval_s: Annotated[
        int, Meta(description="How often a running server looks for changed keys.", ge=1, le=300)
    ] = 5
    status_ttl_s: Annotated[
        int, Meta(description="How long verifiers may cache revocation lists.", ge=1, le=3600)
    ] = 10
    clock_skew_s: Annotated[
        int, Meta(description="Difference of clocks that is tolerated.", ge=0, le=60)
    ] = 10
    max_connections: Annotated[
        int,
        Meta(description="Open connections of one process; idle ones make room.", ge=8, le=100_000),
    ] = 10_000
    max_connections_per_source: Annotated[
        int,
        Meta(
            description="Of them, from one IPv4 address or IPv6 /64; trusted proxies: any number.",
            ge=1,
            le=100_000,
        ),
    ] = 1_000
    max_requests: Annotated[
        int,
        Meta(description="Requests under way in one process; beyond them 503.", ge=8, le=100_000),
    ] = 1_000
    drain_delay_s: Annotated[
        int,
        Meta(
            description="At a stop: go on accepting for so long while /readyz says 503.",
            ge=0,
            le=300,
        ),
    ] = 0
    drain_timeout_s: Annotated[
        int, Meta(description="Then running requests may finish for so long.", ge=0, le=600)
    ] = 20
    log_format: Annotated[
        Literal["console", "json"], Meta(description="By default console on a terminal, else json.")
    ] = "json"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least level that is logged."),
    ] = "info"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting beside its value."""

    field: str
    name: str  # without the unit: the TOML key
    type: Any
    description: str
    low: int | None
    high: int | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def is_secret(self) -> bool:
        return get_origin(self.type) is Secret

    @property
    def is_duration(self) -> bool:
        return self.field.endswith("_s")

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ()

    @property
    def metavar(self) -> str:
        if self.choices:
            return "|".join(self.choices)
        if self.is_duration:
            return "DURATION"
        names = {int: "NUMBER", Path: "PATH", str: "TEXT"}
        return "URL" if self.is_secret else names.get(self.type, "LIST")


def _describe_settings() -> dict[str, Setting]:
    settings = {}
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        kind, meta = get_args(hint)
        outer = name.removesuffix("_s") if kind is int else name
        settings[outer] = Setting(name, outer, kind, meta.description, meta.ge, meta.le)
    return settings


SETTINGS = _describe_settings()
