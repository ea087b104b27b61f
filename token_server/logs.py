"""Structured logs on stderr: one line per event, JSON or console, standard library included.

Events are named in the past tense and carry ids. Whatever a value holds, a line stays one line:
control and direction characters are escaped. Names that only secrets have, and texts shaped
like our tokens, are blanked as a last line of defence, not as a licence to log them. A log
line that cannot be written is dropped: it must never fail a request.
"""

import contextlib
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

Format = Literal["console", "json"]
Event = MutableMapping[str, Any]
Render = Callable[[Event], bytes]

SECRET_NAMES = frozenset(
    {
        "access_token",
        "assertion",
        "authorization",
        "client_secret",
        "code",
        "cookie",
        "current_password",
        "database_url",
        "headers",
        "new_password",
        "password",
        "password_hash",
        "refresh_token",
        "secret",
        "secret_digest",
        "token",
    }
)
# Refresh tokens, client secrets, API keys; JWTs; Argon2 hashes; passwords in URLs.
SECRET_SHAPES = re.compile(
    rb"\b(?:rt|tsk?)_[A-Za-z0-9_-]{24,}"
    rb"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"
    rb"|\$argon2[a-z]{1,2}\$[A-Za-z0-9+/=,$.-]+"
    rb"|(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)"
)
# A look for these is far cheaper than the pattern, and nearly always finds nothing.
SECRET_HINTS = (b"rt_", b"ts_", b"tsk_", b"eyJ", b"$argon2", b"://")
# C0, DEL, C1, zero-width and bidirectional marks, line separators, surrogates.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_URGENT = frozenset({"warning", "error"})
LEVEL_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
QUIET_LOGGERS = ("aiosqlite", "alembic", "asyncio", "sqlalchemy", "uvicorn")  # below warning


class Logger:
    """One module's events: a name in the past tense, and what belongs to it by keyword.

    A level that is not written costs a comparison.
    """

    __slots__ = ("_module",)

    def __init__(self, module: str) -> None:
        self._module = module

    def debug(self, event: str, **values: Any) -> None:
        if _output.level <= logging.DEBUG:
            self._emit("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        if _output.level <= logging.INFO:
            self._emit("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        if _output.level <= logging.WARNING:
            self._emit("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        if _output.level <= logging.ERROR:
            self._emit("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """An error, with the exception that is being handled."""
        self.error(event, exc_info=True, **values)

    def _emit(self, level: str, event: str, values: Event) -> None:
        exc_info = values.pop("exc_info", None)
        if exc_info:
            values["exception"] = _format_exception(exc_info)
        head = {"at": _timestamp(), "level": level, "event": event, "module": self._module}
        line = _output.render({**head, **values})
        if threading.get_ident() != _output.collecting:
            _write(line)
            return
        _output.lines.append(line)
        if level in _URGENT:
            flush_lines()
        elif len(_output.lines) == 1:
            _output.soon(flush_lines)


def get_logger(name: str) -> Logger:
    """A logger for one module; usable at import time, and follows every later configuration."""
    return Logger(name)


@contextlib.contextmanager
def lines_collected(soon: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """In this thread lines up to "info" wait for the next turn, and then are one system call.

    `soon` is an event loop's `call_soon`. The loop also calls `flush_lines` before answers leave,
    so that what was answered was logged. A warning does not wait, nor does what other threads say.
    """
    _output.soon = soon
    _output.collecting = threading.get_ident()
    try:
        yield
    finally:
        _output.collecting = None
        flush_lines()


def flush_lines() -> None:
    """Write the lines that wait; nothing waits but in the thread that collects."""
    if _output.lines:
        lines, _output.lines = _output.lines, []
        _write(b"\n".join(lines))


def configure_logging(log_format: Format, level: str) -> None:
    """Send our events and the standard library's to stderr in one format, from `level` up."""
    render = _render_json if log_format == "json" else _render_console
    number = LEVEL_NUMBERS[level]
    _output.level, _output.render = number, render
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StandardHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StandardHandler(render))
    root.setLevel(number)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    # One structured line per request is ours; uvicorn's would hold the query string.
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)


class _StandardHandler(logging.Handler):
    """Renders the records of uvicorn, SQLAlchemy and asyncio as our events are."""

    def __init__(self, render: Render) -> None:
        super().__init__()
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Event = {
                "at": _timestamp(record.created),
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                "module": record.name,
            }
            if record.exc_info and record.exc_info[0] is not None:
                event["exception"] = _format_exception(record.exc_info)
            _write(self._render(event))
        except Exception:  # noqa: BLE001 - a broken record must not fail who logged it
            _write(b'{"level":"error","event":"log_record_unusable"}')


def _write(line: bytes) -> None:
    try:
        stream = sys.stderr.buffer
        stream.write(line + b"\n")
        stream.flush()
    except (OSError, ValueError, AttributeError):
        # stderr is closed, full or missing: the request that logs is worth more than its line.
        return


def _timestamp(at: float | None = None) -> str:
    # The instant of a log line decides nothing, so it may come from the machine.
    seconds = time.time() if at is None else at  # noqa: TID251
    whole = int(seconds)
    return f"{_date(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)  # a second has many lines
def _date(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def _format_exception(exc_info: Any) -> str:
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info if isinstance(exc_info, BaseException) else exc_info[1]
    return "".join(traceback.format_exception(error)).rstrip() if error is not None else ""


def _blank_secrets(event: Event) -> None:
    if not SECRET_NAMES.isdisjoint(event):
        for name in SECRET_NAMES.intersection(event):
            event[name] = "***"


def _blank_shapes(line: bytes) -> bytes:
    if any(map(line.__contains__, SECRET_HINTS)):
        return SECRET_SHAPES.sub(b"***", line)
    return line


def _render_json(event: Event) -> bytes:
    _blank_secrets(event)
    try:
        line = msgspec.json.encode(event, enc_hook=str)
    except Exception:  # noqa: BLE001 - e.g. a lone surrogate: escape all rather than lose the line
        line = json.dumps(event, default=str, ensure_ascii=True).encode("ascii")
    if not line.isascii() or b"\x7f" in line:
        line = UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", line.decode()).encode()
    return _blank_shapes(line)


def _render_console(event: Event) -> bytes:
    _blank_secrets(event)
    event = dict(event)
    at, level, name = event.pop("at"), event.pop("level"), event.pop("event", "")
    exception = event.pop("exception", None)
    module = event.pop("module", "")
    pairs = " ".join(f"{key}={_console_value(value)}" for key, value in event.items())
    text = f"{str(at)[11:23]} {level:<7} {_escape(str(name)):<30} {pairs} ({module})"
    if exception is not None:
        # The one value with lines of its own: each is escaped for itself.
        text += "".join(f"\n    {_escape(line)}" for line in str(exception).splitlines())
    return _blank_shapes(text.encode())


def _console_value(value: object) -> str:
    text = _escape(str(value))
    return f'"{text}"' if " " in text or not text else text


def _escape(text: str) -> str:
    return UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


class _Output:
    """What `configure_logging` said last; before that, lines for a person to read."""

    __slots__ = ("collecting", "level", "lines", "render", "soon")

    def __init__(self) -> None:
        self.collecting: int | None = None  # the thread whose lines wait
        self.lines: list[bytes] = []
        self.soon: Callable[[Callable[[], None]], object] = lambda flush: flush()
        self.level: int = logging.INFO
        self.render: Render = _render_console


_output = _Output()
