"""The scanner of the leak scan itself: it finds what it must, and a leak fails the run
(ASVS 16.2.5)."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.leaks.sightings import (
    hear_answer,
    hear_command,
    learn_answer,
    learn_request,
    learn_text,
)
from tests.support.leaks.watch import Watch
from token_server.core.opaque import CLIENT_SECRET_PREFIX, format_opaque
from token_server.core.refresh import TokenText, encode_refresh_token

ROOT = Path(__file__).resolve().parents[1]
SECRET = format_opaque(CLIENT_SECRET_PREFIX, bytes(range(50, 82)))
TOKEN = encode_refresh_token(TokenText(1, bytes(range(16)), 3), bytes(range(32)), 0)
PASSWORD = "seventeen äpples / 1+1"
SIGNATURE = base64.urlsafe_b64encode(bytes(range(256))).decode().rstrip("=")
JWT = f"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.{SIGNATURE}"
INNER = """
import base64

import pytest

from token_server.core.opaque import format_opaque
from token_server.logs import get_logger
from token_server.records import Secret

MADE = [format_opaque("ts_", bytes(range(n, n + 32))) for n in (10, 60, 110)]
log = get_logger("mutant")


def test_that_keeps_it():
    Secret(MADE[0])
    log.warning("something_happened", value="harmless")


def test_that_says_it():
    secret = Secret(MADE[1])
    log.warning("something_happened", value=base64.b64encode(b"x" + secret.reveal().encode()))


def test_that_says_what_comes_later():
    log.warning("something_happened", value=MADE[2].encode().hex())


def test_that_makes_it():
    Secret(MADE[2])
"""


def written(text: str) -> dict[str, bytes]:
    """The ways in which a secret has been found in logs of others."""
    raw = text.encode()
    return {
        "plain": raw,
        "base64": base64.b64encode(raw),
        "base64 behind one": base64.b64encode(b"a" + raw),
        "base64 behind two": base64.b64encode(b"ab" + raw + b"c"),
        "Basic header": base64.b64encode(b"billing:" + raw),
        "Basic header, encoded": base64.b64encode(b"billing:" + quote(text, safe="").encode()),
        "base64url": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "URL": quote(text, safe="").encode(),
        "url": quote(text, safe="").lower().encode() if "%" in quote(text, safe="") else raw,
        "JSON": json.dumps({"value": text}).encode(),
        "repr": repr(text).encode(),
    }


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("text", [SECRET, TOKEN, PASSWORD], ids=["secret", "token", "password"])
def test_every_way_of_writing_is_found(text: str, offset: int) -> None:
    """At every offset within the windows of the search, with other things around."""
    for name, way in written(text).items():
        watch = Watch()
        watch.learn("a kind", text)
        watch.hear("the log", b'{"event":"' + b"." * offset + way + b'","at":7}\n')
        (leak, *_) = watch.look() or [None]
        assert leak is not None, name
        assert (leak.where, leak.kind) == ("the log", "a kind")
        assert text not in str(leak)


@pytest.mark.parametrize("part", [slice(0, 26), slice(-26, None)], ids=["begin", "end"])
def test_a_part_is_found_too(part: slice) -> None:
    """A log that cuts its values still has half of the secret."""
    watch = Watch()
    watch.learn("refresh token", TOKEN)
    watch.hear("the log", f"value={TOKEN[part]}...")
    assert {leak.kind for leak in watch.look()} == {"refresh token"}


def test_every_part_of_a_key_is_found() -> None:
    """Wherever it is cut."""
    key = bytes(range(256))
    for begin in range(0, 200, 17):
        watch = Watch()
        watch.learn("signing key", key)
        watch.hear("a dump", b"junk" + key.hex().encode()[begin : begin + 40] + b"junk")
        assert watch.look()


def test_what_is_not_there_is_not_found() -> None:
    """Other secrets of the same shape, ids that share a beginning, short words."""
    watch = Watch()
    for kind, text in (("secret", SECRET), ("token", TOKEN), ("password", PASSWORD)):
        watch.learn(kind, text)
    watch.learn("password", "wrong")
    other = format_opaque(CLIENT_SECRET_PREFIX, bytes(32))
    watch.hear("the log", f"{other} {SECRET[:20]} {TOKEN[:18]} seventeen wrong {'x' * 999}")
    assert watch.look() == set()
    assert len(watch.secrets) == 3


def test_order_does_not_matter_at_the_end() -> None:
    """What was said before it was known is found by the look back."""
    watch = Watch()
    watch.hear("the log", SECRET)
    assert watch.look() == set()
    watch.learn("client secret", SECRET)
    assert watch.look() == set()
    assert {leak.where for leak in watch.look_back()} == {"the log"}


def test_files_are_read_as_they_grow(tmp_path: Path) -> None:
    """Also what was written before somebody looked, and once only."""
    path = tmp_path / "server.log"
    path.write_text("started\n")
    watch = Watch()
    watch.learn("client secret", SECRET)
    watch.follow(path)
    assert watch.look() == set()
    with path.open("a") as file:
        file.write(f"secret={SECRET}\n")
    assert {leak.where for leak in watch.look()} == {"server.log"}
    assert watch.look() == set()


def test_requests_and_answers_teach_their_secrets() -> None:
    """Forms, JSON, headers, cookies; of a JWT the signature."""
    watch = Watch()
    basic = base64.b64encode(f"billing:{SECRET}".encode()).decode()
    learn_request(
        watch,
        [("Authorization", f"Basic {basic}")],
        b"a=b&refresh_token=rt_junk&password=" + b"readable-and-long",
    )
    learn_request(
        watch, [("authorization", f"Bearer {JWT}")], b'{"password": "p-of-twelve-and-more"}'
    )
    learn_answer(watch, json.dumps({"access_token": JWT, "client_secret": SECRET}).encode())
    learn_text(watch, f"set-cookie: x={TOKEN}; Path=/")
    kinds = watch.secrets
    for text, kind in {
        SECRET: "client secret",
        "readable-and-long": "password",
        "p-of-twelve-and-more": "password",
        SIGNATURE: "access token",
        TOKEN: "refresh token",
    }.items():
        assert kinds[text.encode()] == kind
    assert bytes(range(50, 82)) in kinds  # what the secret's text stands for


def test_a_secret_is_shown_once_and_nowhere_else() -> None:
    """The member that is there to show it is no leak; beside it, it is one."""
    watch = Watch()
    watch.learn("access token", SIGNATURE)
    hear_answer(watch, "/oauth2/token", [], json.dumps({"access_token": JWT}).encode())
    assert watch.look() == set()
    hear_answer(watch, "/oauth2/token", [], json.dumps({"error": JWT}).encode())
    assert [leak.where for leak in watch.look()] == ["body of /oauth2/token"]
    watch.learn("client secret", SECRET)
    hear_command(watch, ["python", "-m", "token_server", "client", "add", "x"], SECRET, "")
    assert watch.look() == set()
    hear_command(watch, ["token-server", "client", "show", "x"], SECRET, "")
    assert {leak.where for leak in watch.look()} == {"stdout of token-server client"}
    hear_command(watch, ["token-server", "client", "add", "x"], "", f"Error: {SECRET}")
    assert {leak.where for leak in watch.look()} == {"stderr of token-server client"}


def test_a_log_line_with_a_secret_fails_the_run(tmp_path: Path) -> None:
    """A mutant: one test logs a secret, and one logs what is a secret later. Both are reported, by
    kind and place and without the secret."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.support.leaks.plugin"]\n')
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4 passed, 2 errors" in done.stdout
    assert "ERROR at teardown of test_that_says_it" in done.stdout
    assert "the log holds a secret: client secret, base64" in done.stdout
    assert "the log holds a secret: client secret, hex" in done.stdout
    assert "leak scan: 6 secrets searched" in done.stdout  # each as text and as bytes
