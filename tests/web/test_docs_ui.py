"""/docs: there in `dev`, never in `serve`, and nothing in it from anywhere else."""

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import token_server.web
from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.app import create_app
from token_server.config import Mode
from token_server.runtime import open_runtime
from token_server.web.docs_ui import DOCS_PATH

STATIC = Path(token_server.web.__file__).parent / "static"
FILES = {
    DOCS_PATH: "text/html; charset=utf-8",
    f"{DOCS_PATH}/start.js": "text/javascript; charset=utf-8",
    f"{DOCS_PATH}/swagger-ui.css": "text/css; charset=utf-8",
    f"{DOCS_PATH}/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}


@pytest.fixture
async def http(
    request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path, shared_keys: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """The public application in the mode that the test names."""
    mode: Mode = request.param
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, mode=mode)
    async with open_runtime(settings, clock=ManualClock()) as runtime:
        app: Any = create_app(runtime)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://dev") as client:
            yield client


@pytest.mark.parametrize("http", ["dev"], indirect=True)
async def test_dev_serves_the_pages_files(http: httpx.AsyncClient) -> None:
    """Each with its type, never cached, and HEAD as GET."""
    for path, media_type in FILES.items():
        got, headed = await http.get(path), await http.head(path)
        assert (got.status_code, headed.status_code) == (200, 200)
        assert got.headers["content-type"] == media_type
        assert got.headers["cache-control"] == "no-store"
        assert (headed.content, headed.headers["content-length"]) == (b"", str(len(got.content)))
        refused = await http.post(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("http", ["serve", "tool"], indirect=True)
async def test_production_serves_none_of_them(http: httpx.AsyncClient) -> None:
    """No page with scripts on the origin that holds the refresh cookie."""
    for path in FILES:
        assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize("http", ["dev"], indirect=True)
async def test_policy_lets_in_files_of_this_origin_alone(http: httpx.AsyncClient) -> None:
    """One policy, in place of the one for JSON; nothing inline, no eval, no framing."""
    answer = await http.get(DOCS_PATH)
    [policy] = answer.headers.get_list("content-security-policy")
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await http.get("/livez")).headers["content-security-policy"].startswith("default-src")


@pytest.mark.parametrize("http", ["dev"], indirect=True)
async def test_page_refers_to_served_files_only(http: httpx.AsyncClient) -> None:
    """No CDN, no inline script or style, and every file it names is there."""
    page = (await http.get(DOCS_PATH)).text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert set(named) - {"data:,"} == set(FILES) - {DOCS_PATH}
    assert re.findall(r"<script(?! src)|<style|style=|\bon\w+=|://", page) == []
    assert "://" not in (await http.get(f"{DOCS_PATH}/start.js")).text


def test_vendored_files_are_those_of_the_named_package() -> None:
    """The values in ORIGIN.md are those of the files, and the licences lie beside them."""
    directory = STATIC / "swagger-ui"
    rows = re.findall(r"\| (\S+) \| ([0-9a-f]{64}) \|", (directory / "ORIGIN.md").read_text())
    assert {name for name, _ in rows} == {"swagger-ui-bundle.js", "swagger-ui.css"}
    for name, digest in rows:
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (directory / "LICENSE").read_text()
    for name in ("NOTICE", "swagger-ui-bundle.js.LICENSE.txt"):
        assert (directory / name).stat().st_size > 0
