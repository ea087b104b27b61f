"""No byte of a private key or of the master key in anything that a server or a command says
(ASVS 16.2.5)."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.faults.key_servers import CLIENT_ID, add_client, installation_of
from tests.support.keyrings import master_of
from tests.support.process import Installation, start_server
from token_server.cli.main import cli
from token_server.crypto.manifest import decode_manifest
from token_server.crypto.rsa_keys import load_private
from token_server.crypto.secrets import MasterKeys

FRAGMENT = 24  # characters in a row that cannot be there by chance


def spellings(secret: bytes) -> Iterator[str]:
    yield secret.hex()
    yield base64.b64encode(secret).decode().rstrip("=")
    yield base64.urlsafe_b64encode(secret).decode().rstrip("=")
    yield repr(secret)[2:-1]


def fragments(text: str) -> set[str]:
    """What would be found of `text`, wherever it is cut."""
    return {text[i : i + FRAGMENT] for i in range(0, max(1, len(text) - FRAGMENT), FRAGMENT // 2)}


def secrets_of(keys_dir: Path) -> set[str]:
    """Fragments of every spelling of all that must stay secret."""
    master_keys = master_of(keys_dir)
    found = fragments((keys_dir / "master.key").read_text().rpartition(":")[2].strip())
    for version in master_keys.versions:
        for derived in (
            master_keys.key_encryption_key(version),
            master_keys.manifest_mac_key(version),
            master_keys.refresh_mac_key(version),
        ):
            found.update(*(fragments(text) for text in spellings(derived)))
    for path in keys_dir.glob("*.pem"):
        found.update(line for line in path.read_text().splitlines()[1:-1] if len(line) > FRAGMENT)
        for number in private_numbers(path, master_keys):
            content = number.to_bytes((number.bit_length() + 7) // 8, "big")
            found.update(*(fragments(text) for text in (str(number), *spellings(content))))
    return found


def private_numbers(path: Path, master_keys: MasterKeys) -> tuple[int, ...]:
    manifest = decode_manifest((path.parent / "keyring.json").read_bytes())
    (version,) = [key.master_version for key in manifest.keys if key.key.kid == path.stem]
    assert version is not None
    private = load_private(path.read_bytes(), master_keys.key_encryption_key(version))
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers = private.private_numbers()
    return (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)


def run(installation: Installation, *arguments: str) -> str:
    """All that the command prints and logs."""
    return str(CliRunner().invoke(cli, arguments, env=installation.environ()).output)


def ask(base_url: str, management_url: str, secret: str) -> str:
    """What a server answers to everybody, and to those who do it wrong."""
    said: list[str] = []
    with httpx.Client(timeout=10) as http:
        for path in (
            "/.well-known/jwks.json",
            "/.well-known/oauth-authorization-server",
            "/nothing",
            "/oauth2/token",
        ):
            answer = http.get(base_url + path)
            said.append(f"{answer.headers} {answer.text}")
        for form in ({"grant_type": "client_credentials"}, {"grant_type": "x"}, {}):
            answer = http.post(f"{base_url}/oauth2/token", data=form, auth=(CLIENT_ID, secret))
            said.append(f"{answer.headers} {answer.text}")
        for path in ("/metrics", "/readyz?verbose", "/livez", "/healthz"):
            answer = http.get(management_url + path)
            said.append(f"{answer.headers} {answer.text}")
    return "\n".join(said)


@pytest.fixture
def installation(sqlite_url: str, tmp_path: Path) -> Installation:
    return installation_of(tmp_path, sqlite_url, "directory", KEY_LEAD="60s", LOG_LEVEL="debug")


def test_nothing_says_a_private_byte(installation: Installation) -> None:
    """237: a server with debug logs, its endpoints, its metrics, every command on keys, and their
    errors over damaged files: no number of a private key, no line of a PEM, no master key."""
    keys_dir = installation.directory / "keys"
    secret = add_client(installation)
    server = start_server(installation)
    try:
        said = [ask(server.base_url, server.management_url, secret)]
        secrets = secrets_of(keys_dir)
        said.append(run(installation, "keys", "rotate", "--json"))
        said.append(run(installation, "keys", "rotate", "--now"))
        said.append(run(installation, "keys", "export", "--format", "jwks"))
        secrets |= secrets_of(keys_dir)
        files = "\n".join(path.read_text() for path in keys_dir.iterdir())
        assert sum(fragment in files for fragment in secrets) > 50  # so they would be found
        time.sleep(1.5)  # the server sees the change
        said.append(ask(server.base_url, server.management_url, secret))
        for path in sorted(keys_dir.glob("*.pem")):
            lines = path.read_text().split("\n")
            lines[10] = lines[10][::-1]
            path.write_text("\n".join(lines))
        (keys_dir / "keyring.json").chmod(0o666)
        time.sleep(1.5)
        said.append(ask(server.base_url, server.management_url, secret))
        said.append(run(installation, "keys", "plan"))
        (keys_dir / "keyring.json").chmod(0o600)
        said.append(run(installation, "keys", "compromise", "nobody"))
        said.append(run(installation, "doctor"))
    finally:
        server.stop()
    said.append(server.log_path.read_text())
    everything = "\n".join(said)
    assert len(secrets) > 1000
    assert "damaged" in everything  # the faults were met
    assert "signing_key" in everything
    assert [fragment for fragment in secrets if fragment in everything] == []
