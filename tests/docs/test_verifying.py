"""docs/verifying.md: its services run, its snippets work, its excerpts are true."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
import pytest
from joserfc.errors import JoseError

from tests.support.examples import EXAMPLES, UVICORN, Service, running_program, running_service
from tests.support.issuer import (
    AUDIENCE,
    LATE,
    OLD_TYP,
    READER,
    STRANGE,
    WRITER,
    Issuer,
    running_issuer,
)
from tests.support.process import ROOT
from token_server.verify import StaticKeySet, Verifier

VERIFYING = (ROOT / "docs" / "verifying.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", VERIFYING, re.DOTALL)
EXCERPTS = [
    (match.group(1), text)
    for _, text in BLOCKS
    if (match := re.match(r"(?:#|//) (docs/examples/\S+)\n", text))
]
NODE_PROJECT = Path(__file__).parent / "node"
NPM = shutil.which("npm")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with running_issuer(tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture(scope="module")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked dependencies of the Node.js parts, installed as any project installs them."""
    if NPM is None or shutil.which("node") is None:
        pytest.skip("npm is not installed: the Node.js parts need Node.js 20 and npm")
    directory = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(NODE_PROJECT / name, directory / name)
    _run(directory, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return directory


def block(language: str, containing: str) -> str:
    """The one block of the page with this in it."""
    (text,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return str(text)


@pytest.mark.parametrize(("path", "text"), EXCERPTS, ids=[path for path, _ in EXCERPTS])
def test_excerpt_is_what_the_example_says(path: str, text: str) -> None:
    """Line by line and in order: what is read there has been run."""
    example = iter([line.rstrip() for line in (ROOT / path).read_text().splitlines()])
    excerpt = [line.rstrip() for line in text.splitlines()[1:] if line.strip()]
    assert excerpt
    assert [line for line in excerpt if line not in example] == []


def test_every_example_is_shown_or_named() -> None:
    """No example that nobody finds."""
    shown = {Path(path).parent.name for path, _ in EXCERPTS}
    named = set(re.findall(r"\(examples/(\w+)/", VERIFYING))
    assert {path.name for path in EXAMPLES.iterdir()} == shown | named


def test_first_service_runs_as_it_stands(issuer: Issuer, tmp_path: Path) -> None:
    """The ten lines of the beginning."""
    text = block("python", "app = FastAPI()").replace("https://auth.example", issuer.issuer)
    (tmp_path / "orders.py").write_text(text)
    log_path = tmp_path / "orders.log"
    with running_program([sys.executable, *UVICORN], tmp_path, log_path, {}) as port:
        orders = Service("first", port, log_path)
        statuses = [
            orders.request("/orders", token).status
            for token in (None, issuer.token_of(READER), issuer.token_of(WRITER))
        ]
    assert statuses == [401, 200, 403]


def test_every_way_to_make_a_verifier_works(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line, each verifies the same token."""
    monkeypatch.setenv("TOKEN_VERIFY_ISSUER", issuer.issuer)
    monkeypatch.setenv("TOKEN_VERIFY_AUDIENCE", AUDIENCE)
    with urlopen(f"{issuer.issuer}/.well-known/jwks.json") as answer:
        names = {"ISSUER": issuer.issuer, "AUDIENCE": AUDIENCE, "octets": answer.read()}
    names |= {"Verifier": Verifier, "StaticKeySet": StaticKeySet}
    lines = block("python", "from_environment()  #").replace("https://auth.example", issuer.issuer)
    verifiers = [eval(line, names) for line in lines.splitlines()]  # noqa: S307 - our own page
    assert len(verifiers) == 5
    for verifier in verifiers:
        assert verifier.verify_sync(issuer.token_of(READER)).client_id == "reader"
        verifier.close()


@pytest.mark.parametrize(
    ("library", "refusal"), [("PyJWKClient", jwt.InvalidTokenError), ("JoseError", JoseError)]
)
def test_snippet_for_another_python_library_works(
    library: str, refusal: type[Exception], issuer: Issuer
) -> None:
    """Good, late, strange and forged tokens, and one of another type."""
    names: dict[str, Any] = {}
    exec(block("python", library).replace("https://auth.example", issuer.issuer), names)  # noqa: S102 - our own page
    verify: Callable[[str], dict[str, Any]] = names["verify"]

    assert verify(issuer.token_of(READER))["client_id"] == "reader"
    bad_tokens = [issuer.token_of(caller) for caller in (LATE, STRANGE, OLD_TYP)]
    for bad in [*bad_tokens, issuer.tampered]:
        with pytest.raises(refusal):
            verify(bad)


def test_forward_auth_answers_a_proxy(issuer: Issuer, tmp_path: Path) -> None:
    """Only what nginx understands: 204 with headers, 401 or 403 with the challenge."""
    with running_service("forward_auth", issuer.issuer, tmp_path) as service:
        good = service.request("/check?scope=orders:read", issuer.token_of(READER))
        missing = service.request("/check?scope=orders:read")
        forbidden = service.request("/check?scope=orders:read", issuer.token_of(WRITER))
        malformed = service.send("/check", ["Bearer a b"])
    assert (good.status, good.headers["X-Token-Subject"]) == (204, "reader")
    assert good.headers["X-Token-Scope"] == "orders:read"
    assert (missing.status, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert forbidden.status == 403
    assert malformed.status == 401
    assert malformed.headers["WWW-Authenticate"].startswith('Bearer error="invalid_request"')


def test_express_service_protects_its_route(issuer: Issuer, node_project: Path) -> None:
    """express-oauth2-jwt-bearer with `strict`, unmodified."""
    shutil.copyfile(EXAMPLES / "express" / "orders.mjs", node_project / "orders.mjs")
    log_path = node_project / "orders.log"
    environ = {"ISSUER_BASE_URL": issuer.issuer, "AUDIENCE": AUDIENCE, "PORT": "0"}
    command = [shutil.which("node") or "node", "orders.mjs"]
    with running_program(command, node_project, log_path, environ) as port:
        orders = Service("express", port, log_path)
        good = orders.request("/orders", issuer.token_of(READER))
        statuses = [
            orders.request("/orders", token).status
            for token in (
                None,
                issuer.tampered,
                issuer.token_of(STRANGE),
                issuer.token_of(OLD_TYP),
                issuer.token_of(WRITER),
            )
        ]
    assert (good.status, json.loads(good.body)) == (200, {"client_id": "reader"})
    assert statuses == [401, 401, 401, 401, 403]


def test_jose_snippet_works(issuer: Issuer, node_project: Path) -> None:
    """The module of the page, imported and asked."""
    text = block("js", "createRemoteJWKSet").replace("https://auth.example", issuer.issuer)
    (node_project / "verify.mjs").write_text(text)
    (node_project / "ask.mjs").write_text(
        "import { verify } from './verify.mjs'\n"
        "const say = (token) => verify(token).then((p) => p.client_id, (e) => e.code)\n"
        "console.log(JSON.stringify(await Promise.all(process.argv.slice(2).map(say))))\n"
    )
    tokens = [issuer.token_of(caller) for caller in (READER, LATE, STRANGE, OLD_TYP)]
    printed = _run(node_project, "node", "ask.mjs", *tokens)
    refused = "ERR_JWT_CLAIM_VALIDATION_FAILED"
    assert json.loads(printed) == ["reader", "ERR_JWT_EXPIRED", refused, refused]


def test_lock_file_names_no_registry() -> None:
    """The lock pins content by its digest and leaves the registry to whoever installs."""
    lock = json.loads((NODE_PROJECT / "package-lock.json").read_text("utf-8"))
    packages = [entry for path, entry in lock["packages"].items() if path]
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not any("resolved" in entry for entry in packages)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", VERIFYING))))
def test_link_leads_to_a_file(link: str) -> None:
    """No dead end."""
    assert (ROOT / "docs" / link).exists()


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "npm_config_update_notifier": "false"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
