"""The readers of what operators write: settings, configuration files, master keys, keyrings.

Their bytes come from friends, and are damaged on disks and in editors: a refusal that says why, and
no traceback. Problems never repeat a secret.
"""

import functools
import os
import tempfile
from pathlib import Path

from tests.fuzzing.target import Target, require
from token_server.config import SETTINGS
from token_server.config_loading import read_settings
from token_server.config_values import ValueProblemError, parse_value
from token_server.crypto.key_bundle import BundleError, decode_bundle, encode_bundle
from token_server.crypto.manifest import (
    ManifestError,
    check_manifest,
    decode_manifest,
    encode_manifest,
)
from token_server.crypto.private_files import FileProblemError
from token_server.crypto.rsa_keys import KeyUnusableError, check_form, generate, public_half
from token_server.crypto.secrets import MasterKeys, encode_base64url, parse_master_keys
from token_server.records import SigningKey, StoredKey, StoredKeyring

_MASTER_KEY = bytes(range(7, 39))
_MASTER = MasterKeys({1: _MASTER_KEY})


def setting(data: bytes) -> None:
    """One text for every setting."""
    text = data.decode("utf-8", "surrogateescape")
    for each in SETTINGS.values():
        try:
            parse_value(each, text)
        except ValueProblemError as problem:
            require(str(problem).startswith("must"), "a problem that does not say what to do")


def toml(data: bytes) -> None:
    """A configuration file."""
    path = _scratch_file()
    path.write_bytes(data)
    reading = read_settings("tool", {}, {}, path)
    for problem in reading.problems:
        require(problem.isprintable() or "\n" not in problem, "a problem of several lines")


def environment(data: bytes) -> None:
    """Variables, one `NAME=value` a line, behind our prefix."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    pairs = (line.partition("=") for line in lines)
    environ = {f"TOKEN_SERVER_{name}": value for name, _, value in pairs}
    # Names of files are read by their own test: here they could be any file of the machine.
    read_settings(
        "tool",
        {},
        {name: value for name, value in environ.items() if not name.endswith(("_FILE", "_CONFIG"))},
    )


def master_key(data: bytes) -> None:
    try:
        found = parse_master_keys(data, Path("master.key"))
    except FileProblemError as problem:
        require(encode_base64url(_MASTER_KEY) not in str(problem), "a problem that shows the key")
        return
    require(all(len(key) == 32 for key in found.values()), "a master key of another length")


def manifest(data: bytes) -> None:
    """`keyring.json`, before and after its seal is checked."""
    try:
        found = decode_manifest(data)
    except ManifestError:
        return
    try:
        check_manifest(data, _MASTER)
    except ManifestError:
        return
    require(decode_manifest(encode_manifest(found, _MASTER)) == found, "reads differently again")


def key_bundle(data: bytes) -> None:
    """What `keys export` wrote, on its way to `keys import`."""
    try:
        decode_bundle(data, _MASTER)
    except BundleError:
        return


def private_half(data: bytes) -> None:
    """The outer form of a file with a private key."""
    try:
        check_form(data)
    except KeyUnusableError:
        return
    require(b"ENCRYPTED" in data, "a key in the clear was taken")


@functools.cache
def _scratch_file() -> Path:
    """One file in memory where there is such a place, rewritten for each input."""
    shared = Path("/dev/shm")  # noqa: S108 - a directory of our own in it
    directory = shared if os.access(shared, os.W_OK) else None
    place = tempfile.mkdtemp(prefix="token-server-fuzz-", dir=directory)
    return Path(place) / "token-server.toml"


@functools.cache
def _keyring() -> StoredKeyring:
    public = public_half(generate(2048).public_key())
    key = SigningKey(
        kid=public.kid,
        alg="RS256",
        bits=public.bits,
        n=public.n,
        e=public.e,
        created_at=1,
        published_at=2,
        activate_at=3,
        retire_at=None,
        exp_high_water=None,
        compromised_at=None,
    )
    return StoredKeyring("kr_1", 1, _MASTER.check_value(), (StoredKey(key, None, None),))


TARGETS = {
    "setting": Target(
        setting,
        (
            b"15m",
            b"https://auth.example.com/a",
            b"[::1]:8080",
            b"sqlite:///data/token-server.db",
            b"postgresql://a:b@h:5432/n",
            b"10.0.0.0/8,192.168.1.7",
        ),
    ),
    "toml": Target(
        toml, (b'issuer = "https://auth.example"\naccess_token_ttl = 900\nbrowser_origins = []\n',)
    ),
    "environment": Target(environment, (b"ISSUER=https://auth.example\nWORKERS=2\nLOG_LEVL=info",)),
    "master_key": Target(
        master_key,
        (
            b"# a comment\n1:" + encode_base64url(_MASTER_KEY).encode() + b"\n",
            _MASTER_KEY.hex().encode(),
        ),
    ),
    "manifest": Target(manifest, (encode_manifest(_keyring(), _MASTER),)),
    "key_bundle": Target(key_bundle, (encode_bundle(_keyring(), None, _MASTER),)),
    "private_half": Target(
        private_half,
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",),
    ),
}
