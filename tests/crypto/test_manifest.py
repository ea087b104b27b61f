"""The text of keyring.json: pinned form, and what is not accepted as one."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.keyrings import MASTER, NOW
from token_server.crypto import rsa_keys
from token_server.crypto.manifest import (
    ManifestError,
    check_manifest,
    decode_manifest,
    encode_manifest,
)
from token_server.crypto.secrets import MasterKeys
from token_server.records import StoredKeyring

Tree = dict[str, Any]


def without_private_halves(keyring: StoredKeyring) -> StoredKeyring:
    return replace(keyring, keys=tuple(replace(key, private_pem=None) for key in keyring.keys))


def test_manifest_form_is_pinned(first: StoredKeyring) -> None:
    """Format 1 is what older and newer servers will have to read."""
    tree = json.loads(encode_manifest(first, MASTER))
    assert tree == {
        "keyring": {
            "format": 1,
            "keyring_id": first.keyring_id,
            "generation": 1,
            "master_key_check": MASTER.check_value(),
            "keys": [
                {
                    "kid": stored.key.kid,
                    "alg": "RS256",
                    "bits": 2048,
                    "n": rsa_keys.encode_uint(stored.key.n),
                    "e": "AQAB",
                    "created_at": NOW,
                    "published_at": activate_at,
                    "activate_at": activate_at,
                    "retire_at": None,
                    "exp_high_water": stored.key.exp_high_water,
                    "compromised_at": None,
                    "master_version": 1,
                }
                for stored, activate_at in zip(first.keys, (NOW, None), strict=True)
            ],
        },
        "mac_version": 1,
        "mac": tree["mac"],
    }


def test_every_instant_survives_the_manifest(first: StoredKeyring) -> None:
    """Nothing that decides a state is lost between two starts."""
    active, waiting = first.keys
    key = replace(active.key, activate_at=2, retire_at=3, exp_high_water=4, compromised_at=5)
    changed = replace(first, generation=9, keys=(replace(active, key=key), waiting))
    content = encode_manifest(changed, MASTER)
    assert decode_manifest(content) == without_private_halves(changed)
    check_manifest(content, MASTER)


def test_manifest_holds_no_private_half(first: StoredKeyring) -> None:
    """The manifest may be read by others: it has what the JWKS has, and instants."""
    content = encode_manifest(first, MASTER).decode()
    for stored in first.keys:
        assert stored.private_pem is not None
        assert not any(line in content for line in stored.private_pem.decode().splitlines()[1:-1])
    assert "PRIVATE" not in content


def set_in_key(name: str, value: object) -> Callable[[Tree], object]:
    return lambda tree: tree["keyring"]["keys"][0].__setitem__(name, value)


def small_key(tree: Tree) -> None:
    n = (1 << 1023) + 1
    tree["keyring"]["keys"][0].update(
        kid=rsa_keys.thumbprint(n, 65537), n=rsa_keys.encode_uint(n), bits=1024
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(set_in_key("kid", "../../etc/passwd"), id="kid is a path"),
        pytest.param(set_in_key("kid", "A" * 43), id="kid of another key"),
        pytest.param(set_in_key("n", "AQAB"), id="n of another key"),
        pytest.param(set_in_key("n", ""), id="no n"),
        pytest.param(set_in_key("n", "***"), id="n is not base64url"),
        pytest.param(set_in_key("n", "A"), id="n of impossible length"),
        pytest.param(set_in_key("alg", "HS256"), id="another algorithm"),
        pytest.param(set_in_key("bits", 3072), id="another size"),
        pytest.param(set_in_key("created_at", "now"), id="instant is text"),
        pytest.param(set_in_key("created_at", 1.5), id="instant is a fraction"),
        pytest.param(set_in_key("d", "AQAB"), id="unknown member"),
        pytest.param(small_key, id="a small key"),
        pytest.param(lambda tree: tree["keyring"]["keys"].append(tree["keyring"]["keys"][0])),
        pytest.param(lambda tree: tree["keyring"].pop("generation"), id="no generation"),
        pytest.param(lambda tree: tree["keyring"].update(more=1), id="unknown member above"),
        pytest.param(lambda tree: tree["keyring"].update(format=2), id="a newer format"),
        pytest.param(lambda tree: tree.pop("mac"), id="no MAC"),
    ],
)
def test_impossible_manifest_is_refused(
    damage: Callable[[Tree], object], first: StoredKeyring
) -> None:
    """A manifest that this server cannot have written, or not fully understand, is not guessed
    at; a kid becomes a file name only when it is the key's thumbprint."""
    tree = json.loads(encode_manifest(first, MASTER))
    damage(tree)
    with pytest.raises(ManifestError):
        decode_manifest(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_in_key("retire_at", 9), id="a date"),
        pytest.param(set_in_key("compromised_at", 9), id="a compromise"),
        pytest.param(set_in_key("master_version", None), id="an erasure"),
        pytest.param(lambda tree: tree["keyring"]["keys"].reverse(), id="the order"),
        pytest.param(lambda tree: tree["keyring"]["keys"].pop(), id="a key"),
        pytest.param(lambda tree: tree["keyring"].update(generation=2), id="the generation"),
        pytest.param(lambda tree: tree["keyring"].update(keyring_id="kr_x"), id="the id"),
        pytest.param(lambda tree: tree.update(mac=""), id="the MAC"),
        pytest.param(lambda tree: tree.update(mac="é"), id="the MAC, not ASCII"),
        pytest.param(lambda tree: tree.update(mac_version=2), id="the MAC's version"),
    ],
)
def test_any_change_breaks_the_mac(change: Callable[[Tree], object], first: StoredKeyring) -> None:
    """Whatever is changed by somebody without the master key is noticed."""
    tree = json.loads(encode_manifest(first, MASTER))
    change(tree)
    content = json.dumps(tree).encode()
    with pytest.raises(ManifestError):
        check_manifest(content, MASTER)


def test_manifest_survives_a_new_master_key_version(first: StoredKeyring) -> None:
    """Adding a version does not shut out the keyring; taking the old one away does, by name."""
    old, new = bytes(range(32)), bytes(range(50, 82))
    content = encode_manifest(first, MASTER)
    check_manifest(content, MasterKeys({1: old, 2: new}))
    with pytest.raises(ManifestError, match=r"version 1, which is missing: put that line into"):
        check_manifest(content, MasterKeys({2: new}))
    with pytest.raises(ManifestError, match="another master key"):
        check_manifest(content, MasterKeys({1: new}))
