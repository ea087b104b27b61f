"""npm `jose`, unmodified: createRemoteJWKSet and jwtVerify in a real Node.js (RFC 9068 §4)."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.interop.conftest import AUDIENCE, CONFIDENTIAL, Service
from tests.support.node import MISSING, SOURCE, has_node, install_node_project, run_node


@pytest.fixture(scope="session")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_node():
        pytest.skip(MISSING)
    return install_node_project(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def outcomes(service: Service, node_project: Path) -> dict[str, Any]:
    """What jose says of a good token and of three that it must refuse."""
    form = {"grant_type": "client_credentials"}
    auth = (CONFIDENTIAL, service.client_secret)
    answer = requests.post(service.token_url, data=form, auth=auth, timeout=30)
    token = answer.json()["access_token"]
    good = {"token": token, "audience": AUDIENCE, "typ": "at+jwt"}
    middle = len(token) - 100  # inside the signature
    other = "A" if token[middle] != "A" else "B"
    changed = token[:middle] + other + token[middle + 1 :]
    checks = {
        "good": good,
        "changed": {**good, "token": changed},
        "other audience": {**good, "audience": "https://stock.example"},
        "other type": {**good, "typ": "secevent+jwt"},
    }
    question = {"jwks_uri": service.jwks_uri, "issuer": service.issuer, "checks": checks}
    printed = run_node(node_project, ("node", "verify.mjs"), stdin=json.dumps(question))
    return dict(json.loads(printed))


def test_jose_accepts_a_machine_token(outcomes: dict[str, Any]) -> None:
    """All required claims are there, under the media type of access tokens (RFC 9068 §2.1)."""
    claims, header = outcomes["good"]["claims"], outcomes["good"]["header"]
    assert claims["client_id"] == CONFIDENTIAL
    assert claims["aud"] == AUDIENCE
    assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("changed", "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"),
        ("other audience", "ERR_JWT_CLAIM_VALIDATION_FAILED"),
        ("other type", "ERR_JWT_CLAIM_VALIDATION_FAILED"),
    ],
)
def test_jose_refuses(outcomes: dict[str, Any], name: str, code: str) -> None:
    """The checks that jose makes hold with our key set and claims (RFC 9068 §4)."""
    assert outcomes[name] == {"refused": code}


def test_lock_file_names_no_registry() -> None:
    """The lock pins content by its digest and leaves the registry to whoever installs."""
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))
    packages = [entry for path, entry in lock["packages"].items() if path]
    assert packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not any("resolved" in entry for entry in packages)
