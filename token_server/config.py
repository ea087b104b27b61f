"""Settings: one frozen struct, parsed once; flags > TOKEN_SERVER_* > TOML > defaults.

Every field names its unit; the environment name is the field in capitals without its unit
suffix (`access_token_ttl_s` is TOKEN_SERVER_ACCESS_TOKEN_TTL, in TOML `access_token_ttl`).
"""

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from token_server.records import Secret

Mode = Literal["dev", "serve", "tool"]
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    mode: Mode  # "tool" is every command that serves nothing
    issuer: str = "http://127.0.0.1:8080"
    bind: str = "127.0.0.1:8080"
    management_bind: str = "127.0.0.1:9001"
    database_url: Secret[str]  # may hold a password
    keys_dir: Path = Path("keys")
    key_store: Literal["directory", "database"] = "directory"
    master_key_file: Path = Path("keys/master.key")
    workers: int = 1
    access_token_ttl_s: int = 900
    refresh_idle_ttl_s: int = 7 * 86400
    refresh_absolute_ttl_s: int = 30 * 86400
    refresh_replay_window_s: int = 30
    default_audience: str  # defaults to the issuer
    access_token_typ: Literal["at+jwt", "JWT"] = "at+jwt"
    registration: Literal["open", "closed"] = "closed"
    trusted_proxies: tuple[IPNetwork, ...] = ()
    password_min_length: int = 8
    password_max_length: int = 100
    argon2_memory_kib: int = 19456
    argon2_time_cost: int = 2
    argon2_parallelism: int = 1
    password_hash_slots: int = 1  # defaults to the number of cores
    key_lead_s: int = 86400
    key_rotate_every_s: int = 90 * 86400
    key_bits: Literal[2048, 3072, 4096] = 2048
    jwks_max_age_s: int = 300
    key_reload_interval_s: int = 5
    status_ttl_s: int = 10
    clock_skew_s: int = 10
    drain_timeout_s: int = 20
    log_format: Literal["console", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
