"""Moving keys: a keyring between stores, one key from outside, public halves for others."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.key_moves import Keyed, make_keyed
from token_server.core.key_compromise import compromise_key
from token_server.crypto import rsa_keys
from token_server.errors import OperatorError
from token_server.records import AuditEventType, KeyState, Secret
from token_server.runtime import open_runtime
from token_server.services.key_material import (
    ImportReport,
    PassPhraseNeededError,
    export_jwks,
    export_keyring,
    export_pem,
    import_key,
    import_keyring,
)
from token_server.storage import audit

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, PKCS1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()
PHRASE = "correct horse ä"


@pytest.fixture
def directory(database_url: str, tmp_path: Path) -> Keyed:
    return make_keyed(database_url, tmp_path, "directory")


@pytest.fixture
def own(sqlite_url: str, tmp_path: Path) -> Keyed:
    return make_keyed(sqlite_url, tmp_path, "directory")


def in_database(keyed: Keyed) -> Keyed:
    """The same installation with KEY_STORE=database, its master key elsewhere."""
    path = keyed.settings.keys_dir.parent / "mounted-master-key"
    path.write_bytes(keyed.master_key.read_bytes())
    path.chmod(0o600)
    settings = msgspec.structs.replace(keyed.settings, key_store="database", master_key_file=path)
    return Keyed(settings, path)


async def take_in(keyed: Keyed, bundle: bytes, *, dry_run: bool = False) -> ImportReport:
    settings = msgspec.structs.replace(keyed.settings, mode="tool")
    async with open_runtime(settings, with_keys=False) as runtime:
        return await import_keyring(runtime, bundle, dry_run=dry_run)


async def exported(keyed: Keyed) -> bytes:
    async with keyed.command() as runtime:
        return await export_keyring(runtime)


async def test_keyring_moves_to_the_database_and_back_and_sessions_go_on(
    directory: Keyed,
) -> None:
    """Same keyring, same kids, same bytes of the JWKS; the copy left behind is not opened, and a
    second move replaces it."""
    async with directory.serving() as served:
        await served.add_people()
        token = (await served.server.login())["refresh_token"]
        jwks = (await served.server.http.get("/.well-known/jwks.json")).content
    database = in_database(directory)
    with pytest.raises(OperatorError, match="are in a key directory"):
        async with database.command():
            pass
    report = await take_in(database, await exported(directory))
    assert (report.changed, report.kind, report.place) == (True, "keyring", "the database")
    async with database.serving() as served:
        token = (await served.server.refresh(token)).json()["refresh_token"]
        assert (await served.server.http.get("/.well-known/jwks.json")).content == jwks
        assert served.server.runtime.keyring.keyring_id == report.keyring_id
    with pytest.raises(OperatorError, match="are in the database itself"):
        async with directory.command():
            pass
    await take_in(directory, await exported(database))
    async with directory.serving() as served:
        assert (await served.server.refresh(token)).status_code == 200
        assert (await served.server.http.get("/.well-known/jwks.json")).content == jwks
    async with directory.command() as runtime, runtime.store.read() as connection:
        found = [stored.event for stored in await audit.list_events(connection, 0, 1000)]
    moves = [event.event for event in found if event.subject == report.keyring_id]
    assert moves == [
        AuditEventType.KEYRING_CREATED,
        *(AuditEventType.KEYRING_EXPORTED, AuditEventType.KEYRING_IMPORTED) * 2,
    ]


async def test_time_between_two_stores_does_not_count_as_served(own: Keyed) -> None:
    """The word of the last server moves too: keys that wait lose the time in which none ran."""
    async with own.serving() as served:
        await served.follow()
        waiting = served.server.runtime.keys.situation().waiting[0]
        served_at = served.server.clock.now()
    database = in_database(own)
    await take_in(database, await exported(own))
    async with database.command() as runtime:
        serving = await runtime.keys.store.last_serving()
        assert serving is not None
        assert serving.served_at == served_at == waiting.published_at


async def test_bundle_holds_no_private_half_in_plain(own: Keyed) -> None:
    """Without the master key it opens nothing."""
    bundle = await exported(own)
    assert bundle.count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert b"BEGIN PRIVATE" not in bundle
    assert b"RSA PRIVATE" not in bundle
    line = own.master_key.read_text().splitlines()[-1]
    assert line.partition(":")[2].encode() not in bundle


async def test_dry_run_of_an_import_stores_nothing(own: Keyed) -> None:
    """Everything is checked, down to each private half, and nothing is kept."""
    bundle = await exported(own)
    database = in_database(own)
    report = await take_in(database, bundle, dry_run=True)
    assert (report.changed, report.dry_run, len(report.kids)) == (False, True, 2)
    with pytest.raises(OperatorError, match="are in a key directory"):
        async with database.command():
            pass
    async with own.command():
        pass


async def test_import_into_a_store_in_use_is_refused(own: Keyed, tmp_path: Path) -> None:
    """Neither an older copy of the same keyring nor another one may take the place of live keys."""
    bundle = await exported(own)
    with pytest.raises(OperatorError, match=r"holds keyring kr_.* already") as caught:
        await take_in(own, bundle)
    assert caught.value.exit_code == 4
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    other = make_keyed(f"sqlite:///{other_directory / 'other.db'}", other_directory, "directory")
    foreign = await exported(other)
    own.master_key.write_bytes(other.master_key.read_bytes())
    with pytest.raises(OperatorError, match=r"belongs to keyring kr_.*, the export is of kr_"):
        await take_in(in_database(own), foreign)


async def test_import_without_its_master_key_is_refused(own: Keyed, tmp_path: Path) -> None:
    """The message says which file to put where."""
    bundle = await exported(own)
    place = tmp_path / "new"
    place.mkdir()
    new = make_keyed(f"sqlite:///{place / 'new.db'}", place, "directory")
    with pytest.raises(OperatorError, match=r"master\.key is not there: put the master key"):
        await take_in(new, bundle)
    new.settings.keys_dir.mkdir(mode=0o700)
    new.master_key.write_text("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n")
    new.master_key.chmod(0o600)
    with pytest.raises(OperatorError, match="belongs to another master key"):
        await take_in(new, bundle)
    new.master_key.write_bytes(own.master_key.read_bytes())
    assert (await take_in(new, bundle)).changed
    async with new.command() as runtime:
        assert len(runtime.keyring.signers) == 2


def cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


def swap_halves(text: bytes) -> bytes:
    tree = json.loads(text)
    one, two = tree["private_halves"]
    halves = tree["private_halves"]
    halves[one], halves[two] = halves[two], halves[one]
    return json.dumps(tree).encode()


def without_a_half(text: bytes) -> bytes:
    tree = json.loads(text)
    tree["private_halves"].popitem()
    return json.dumps(tree).encode()


def activated_early(text: bytes) -> bytes:
    tree = json.loads(text)
    tree["manifest"]["keyring"]["keys"][1]["activate_at"] = 1
    return json.dumps(tree).encode()


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (cut, "not a whole keyring export"),
    "empty object": (lambda _: b"{}", "not a whole keyring export"),
    "deep": (lambda _: b'{"manifest":' + b"[" * 100_000, "not a whole keyring export"),
    "newer format": (
        lambda text: text.replace(b'"token_server_keyring":1', b'"token_server_keyring":2'),
        "not a whole keyring export",
    ),
    "halves exchanged": (swap_halves, "another key than its name says"),
    "a half missing": (without_a_half, "is missing: export it again"),
    "an instant changed": (activated_early, "changed by something else than this server"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_bundle_that_is_not_whole_is_refused(own: Keyed, name: str) -> None:
    """Damage and changes are found before anything is stored."""
    damage, message = FAULTS[name]
    bundle = damage(await exported(own))
    with pytest.raises(OperatorError, match=message):
        await take_in(in_database(own), bundle)


async def test_public_halves_are_those_of_the_published_keys(own: Keyed) -> None:
    """The same keys as JWKS and as PEM, in one order, and openssl reads the latter."""
    async with own.command() as runtime:
        jwks, pems = json.loads(export_jwks(runtime)), export_pem(runtime)
        kids = [key.kid for key in runtime.keyring.keys]
    assert [key["kid"] for key in jwks["keys"]] == [key.kid for key in pems] == kids
    for key in pems:
        public = serialization.load_pem_public_key(key.pem.encode())
        assert isinstance(public, rsa.RSAPublicKey)
        assert rsa_keys.public_half(public).kid == key.kid
        command = ["openssl", "pkey", "-pubin", "-noout"]
        read = await asyncio.to_thread(subprocess.run, command, input=key.pem.encode(), check=False)
        assert read.returncode == 0


# ---- one key from outside -------------------------------------------------------------------


@pytest.fixture(scope="session")
def foreign_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


FORMS: dict[str, Callable[[rsa.RSAPrivateKey], bytes]] = {
    "PKCS#8": lambda key: key.private_bytes(PEM, PKCS8, PLAIN),
    "PKCS#1": lambda key: key.private_bytes(PEM, PKCS1, PLAIN),
    "PKCS#8, encrypted": lambda key: key.private_bytes(
        PEM, PKCS8, serialization.BestAvailableEncryption(PHRASE.encode())
    ),
    "PKCS#1, encrypted": lambda key: key.private_bytes(
        PEM, PKCS1, serialization.BestAvailableEncryption(PHRASE.encode())
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_foreign_key_waits_like_any_new_one(
    own: Keyed, foreign_key: rsa.RSAPrivateKey, form: str
) -> None:
    """It is published by the next server, signs no sooner than I2 allows, and is stored encrypted
    under our master key alone."""
    pem, kid = FORMS[form](foreign_key), rsa_keys.public_half(foreign_key.public_key()).kid
    phrase = Secret(PHRASE) if "encrypted" in form else None
    async with own.command() as runtime:
        if phrase is not None:
            with pytest.raises(PassPhraseNeededError):
                await import_key(runtime, pem, None, dry_run=False)
            with pytest.raises(OperatorError, match="pass phrase is wrong") as caught:
                await import_key(runtime, pem, Secret("guess"), dry_run=False)
            assert "guess" not in caught.value.message
        tried = await import_key(runtime, pem, phrase, dry_run=True)
        assert (tried.changed, tried.kids) == (False, (kid,))
        assert kid not in (await stored_kids(own))
        done = await import_key(runtime, pem, phrase, dry_run=False)
        assert (done.changed, done.kids, done.kind) == (True, (kid,), "key")
        again = await import_key(runtime, pem, phrase, dry_run=False)
        assert (again.changed, again.reason) == (False, f"{kid} is here already")
    async with own.serving() as served:
        situation = served.server.runtime.keys.situation()
        key = situation.find(kid)
        assert key is not None
        assert situation.state(key) is KeyState.NEXT
        assert key.published_at == served.server.clock.now()
        allowed_at = situation.may_sign_from(key)
        assert allowed_at == key.published_at + served.server.runtime.settings.key_lead_s
        assert kid in (await served.server.http.get("/.well-known/jwks.json")).text
    content = (own.settings.keys_dir / f"{kid}.pem").read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


async def stored_kids(keyed: Keyed) -> set[str]:
    async with keyed.command() as runtime:
        return {key.kid for key in runtime.keyring.keys}


def ec_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, PLAIN)


def rsa_key(bits: int, exponent: int = 65537) -> Callable[[], bytes]:
    return lambda: rsa.generate_private_key(exponent, bits).private_bytes(PEM, PKCS8, PLAIN)


def public_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048).public_key()
    return key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def damaged() -> bytes:
    lines = rsa_key(2048)().split(b"\n")
    lines[5] = b"A" * 64
    return b"\n".join(lines)


BAD_KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "too small": (rsa_key(1024), "size is not 2048, 3072 or 4096"),
    "odd size": (rsa_key(2560), "size is not 2048, 3072 or 4096"),
    "small exponent": (rsa_key(2048, 3), "public exponent is not 65537"),
    "elliptic curve": (ec_key, "not an RSA key"),
    "public": (public_key, "not a private key in PEM"),
    "damaged": (damaged, "not a private key in PEM"),
    "text": (lambda: b"hello\n", "not a private key in PEM"),
    "nothing": (lambda: b"", "not a private key in PEM"),
    "binary": (lambda: os.urandom(500), "not a private key in PEM"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
async def test_key_that_must_not_sign_is_refused(own: Keyed, name: str) -> None:
    """With the reason, and without a byte of it in the message."""
    make, message = BAD_KEYS[name]
    pem = make()
    async with own.command() as runtime:
        with pytest.raises(OperatorError, match=message) as caught:
            await import_key(runtime, pem, None, dry_run=False)
        assert caught.value.__cause__ is None
        assert len(runtime.keyring.keys) == 2


async def test_dropped_key_does_not_come_back(own: Keyed, foreign_key: rsa.RSAPrivateKey) -> None:
    """A compromised kid stays compromised, whoever imports it."""
    pem = FORMS["PKCS#8"](foreign_key)
    async with own.command() as runtime:
        (kid,) = (await import_key(runtime, pem, None, dry_run=False)).kids
        await runtime.keys.change(lambda situation: compromise_key(situation, kid))
        with pytest.raises(OperatorError, match="must never sign again") as caught:
            await import_key(runtime, pem, None, dry_run=False)
        assert caught.value.exit_code == 4
