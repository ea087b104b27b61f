"""Where a test run sees what goes in and out: HTTP clients, processes, commands, logs, key files.

The hooks stand at the narrow places that every test goes through, so that nobody has to remember
the scan: `httpx`, `http.client`, `subprocess`, click's runner, our own log and our own wrappers of
secrets. In a process of its own a server is known by its standard error and its key directory.
"""

import contextlib
import http.client
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click.testing
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tests.support.leaks.sightings import (
    hear_answer,
    hear_command,
    learn_answer,
    learn_password,
    learn_request,
    learn_text,
)
from tests.support.leaks.watch import Watch
from token_server import logs
from token_server.crypto import passwords, rsa_keys
from token_server.crypto.argon2id import Argon2Cost
from token_server.crypto.manifest import decode_manifest
from token_server.crypto.rsa_keys import RsaSigner
from token_server.crypto.secrets import MasterKeys, load_master_keys
from token_server.records import Secret

_OURS = ("token_server", "token-server", "rotate_keys.py")


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator["KeyDirectories"]:
    """All hooks, for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        directories = KeyDirectories(watch)
        _watch_httpx(watch, patch)
        _watch_http_client(watch, patch)
        _watch_processes(watch, directories, patch)
        _watch_commands(watch, patch)
        _watch_logs(watch, patch)
        _watch_memory(watch, patch)
        yield directories


class KeyDirectories:
    """The `keys/` of servers that were started: what is in them at the end of a test is secret."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._paths: set[Path] = set()
        self._read: set[tuple[str, int]] = set()

    def add(self, environ: dict[str, str], cwd: Path) -> None:
        self._paths.add(cwd / environ.get("TOKEN_SERVER_KEYS_DIR", "keys"))

    def learn(self) -> None:
        for path in self._paths:
            # Damaged on purpose, removed, encrypted under a key elsewhere: then there is nothing.
            with contextlib.suppress(Exception):
                self._learn_one(path)

    def forget(self) -> None:
        self._paths.clear()

    def _learn_one(self, path: Path) -> None:
        manifest = path / "keyring.json"
        version = (str(path), manifest.stat().st_mtime_ns)
        if version in self._read:
            return
        self._read.add(version)
        master = load_master_keys(path / "master.key", path)  # its constructor is watched
        if master is None:
            return
        for stored in decode_manifest(manifest.read_bytes()).keys:
            if stored.master_version is None:
                continue
            phrase = rsa_keys.pass_phrase(master.key_encryption_key(stored.master_version))
            pem = (path / f"{stored.key.kid}.pem").read_bytes()
            private = load_pem_private_key(pem, phrase, unsafe_skip_rsa_key_validation=True)
            assert isinstance(private, rsa.RSAPrivateKey)
            learn_private(self._watch, private)


def learn_private(watch: Watch, private: rsa.RSAPrivateKey) -> None:
    """The numbers of a key, as bytes and in decimal; each of them gives the key away."""
    numbers = private.private_numbers()
    for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp):
        watch.learn("signing key", number.to_bytes((number.bit_length() + 7) // 8, "big"))
        watch.learn("signing key", str(number))


def _watch_httpx(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    def see(request: httpx.Request, answer: httpx.Response) -> None:
        body = request.content if hasattr(request, "_content") else b""
        learn_request(watch, request.headers.multi_items(), body)
        if answer.is_closed and answer.is_stream_consumed:
            _see_answer(watch, request.url.path, answer.headers.multi_items(), answer.content)

    sync, apart = httpx.Client.send, httpx.AsyncClient.send

    @wraps(sync)
    def send(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = sync(self, request, **options)
        see(request, answer)
        return answer

    @wraps(apart)
    async def send_apart(
        self: httpx.AsyncClient, request: httpx.Request, **options: Any
    ) -> httpx.Response:
        answer = await apart(self, request, **options)
        see(request, answer)
        return answer

    patch.setattr(httpx.Client, "send", send)
    patch.setattr(httpx.AsyncClient, "send", send_apart)


def _see_answer(watch: Watch, where: str, headers: list[tuple[str, str]], body: bytes) -> None:
    learn_answer(watch, body)
    for name, value in headers:
        if name.lower() == "set-cookie":
            learn_text(watch, value)
    hear_answer(watch, where, headers, body)


def _watch_http_client(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    """urllib, and requests byte for byte (tests/support/wire.py)."""
    put, read = http.client.HTTPConnection.putheader, http.client.HTTPResponse.read

    @wraps(put)
    def putheader(self: http.client.HTTPConnection, header: Any, *values: Any) -> None:
        name = header if isinstance(header, str) else header.decode("latin-1")
        for value in values:
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            learn_request(watch, [(name, text)], b"")
        put(self, header, *values)

    @wraps(read)
    def read_watched(self: http.client.HTTPResponse, amt: int | None = None) -> bytes:
        content = read(self, amt)
        learn_answer(watch, content)
        if amt is None and content:  # else it may be cut where a secret is shown
            _see_answer(watch, "an answer", self.getheaders(), content)
        return content

    patch.setattr(http.client.HTTPConnection, "putheader", putheader)
    patch.setattr(http.client.HTTPResponse, "read", read_watched)


def _watch_processes(watch: Watch, directories: KeyDirectories, patch: pytest.MonkeyPatch) -> None:
    start, talk, wait = (
        subprocess.Popen.__init__,
        subprocess.Popen.communicate,
        subprocess.Popen.wait,
    )

    @wraps(start)
    def init(self: Any, args: Any, *more: Any, **options: Any) -> None:
        start(self, args, *more, **options)
        if _is_ours(args):
            environ = {**(options.get("env") or os.environ)}
            directories.add(environ, Path(options.get("cwd") or "."))
            _learn_database_password(watch, environ.get("TOKEN_SERVER_DATABASE_URL", ""))
            for stream in ("stdout", "stderr"):
                name = getattr(options.get(stream), "name", None)
                if isinstance(name, str | Path):
                    watch.follow(Path(name))

    @wraps(talk)
    def communicate(self: Any, input: Any = None, timeout: Any = None) -> Any:  # noqa: A002 - its name
        stdout, stderr = talk(self, input, timeout)
        if _is_ours(self.args):
            _learn_input(watch, input)
            hear_command(watch, _words(self.args), stdout or "", stderr or "")
        return stdout, stderr

    @wraps(wait)
    def wait_watched(self: Any, timeout: Any = None) -> Any:
        status = wait(self, timeout)
        watch.read_files()
        return status

    patch.setattr(subprocess.Popen, "__init__", init)
    patch.setattr(subprocess.Popen, "communicate", communicate)
    patch.setattr(subprocess.Popen, "wait", wait_watched)


def _words(args: Any) -> list[str]:
    parts = [args] if isinstance(args, str | bytes | Path) else list(args)
    return [part.decode() if isinstance(part, bytes) else str(part) for part in parts]


def _is_ours(args: Any) -> bool:
    return any(Path(word).name in _OURS for word in _words(args))


def _learn_input(watch: Watch, given: str | bytes | None) -> None:
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else given or ""
    learn_text(watch, text)
    for line in text.splitlines():
        learn_password(watch, line)  # whatever else a command reads is one of the above


def _watch_commands(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    """The command line in this process."""
    invoke = click.testing.CliRunner.invoke

    @wraps(invoke)
    def invoke_watched(
        self: Any,
        command: Any,
        args: Any = None,
        input: Any = None,  # noqa: A002 - click's name
        **options: Any,
    ) -> click.testing.Result:
        result = invoke(self, command, args, input, **options)
        _learn_input(watch, input if isinstance(input, str | bytes) else None)
        words = args.split() if isinstance(args, str) else _words(args or ())
        hear_command(watch, words, result.stdout, result.stderr)
        if result.exc_info is not None and not isinstance(result.exception, SystemExit):
            watch.hear("a traceback", "".join(traceback.format_exception(*result.exc_info)))
        return result

    patch.setattr(click.testing.CliRunner, "invoke", invoke_watched)


def _watch_logs(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    write = logs._write

    def write_watched(line: bytes) -> None:
        watch.hear("the log", line)
        write(line)

    patch.setattr(logs, "_write", write_watched)


def _watch_memory(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    """What servers and services in this process hold."""

    def after(kind: Any, see: Callable[..., None]) -> None:
        init = kind.__init__

        @wraps(init)
        def watched(self: Any, *arguments: Any, **options: Any) -> None:
            init(self, *arguments, **options)
            see(*arguments, **options)

        patch.setattr(kind, "__init__", watched)

    def see_secret(value: str | bytes) -> None:
        if isinstance(value, str):
            if "://" in value:
                _learn_database_password(watch, value)
            learn_text(watch, value)

    def see_master_keys(keys: dict[int, bytes]) -> None:
        for key in keys.values():
            watch.learn("master key", key)

    hash_one = passwords._hash

    def hash_watched(password: Secret[str], salt: bytes, cost: Argon2Cost) -> str:
        learn_password(watch, password.reveal())
        return hash_one(password, salt, cost)

    patch.setattr(passwords, "_hash", hash_watched)
    after(Secret, see_secret)
    after(MasterKeys, see_master_keys)
    after(RsaSigner, lambda _kid, private: learn_private(watch, private))


def _learn_database_password(watch: Watch, url: str) -> None:
    with contextlib.suppress(ArgumentError, ValueError):  # any text may stand there
        password = make_url(url).password
        if password:
            watch.learn("database password", str(password))
