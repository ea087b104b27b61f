"""Log lines: one line each whatever they hold, no secrets, one format for everybody."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from token_server.logs import _output, configure_logging, get_logger, lines_collected
from token_server.records import Secret


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's: other tests get it back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    output = _output.level, _output.render
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    _output.level, _output.render = output


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_json_event_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Instant, level, event and module come first; the rest is as given."""
    configure_logging("json", "info")

    get_logger("a.b").info("token_issued", client_id="x", status=200)

    (record,) = records(capsys)
    assert record.pop("at").endswith("Z")
    assert record == {
        "level": "info",
        "event": "token_issued",
        "module": "a.b",
        "client_id": "x",
        "status": 200,
    }


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "value",
    [
        "a\nb",
        "a\r\nb",
        "a\x1b[31mb",
        "a\x00b",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a\u202eb",
        "a\ud800b",
    ],
)
def test_values_cannot_forge_or_colour_lines(
    capsys: pytest.CaptureFixture[str], log_format: Any, value: str
) -> None:
    """Control and direction characters leave escaped: one event is one line of plain text."""
    configure_logging(log_format, "info")

    get_logger("a").info("something_happened", value=value)

    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert err[:-1].isprintable()


SECRETS = [
    ("password", "hunter2"),
    ("client_secret", "hunter2"),
    ("headers", {"authorization": "Basic hunter2"}),
    ("text", "rt_" + "hunter2" * 8),
    ("text", "got ts_" + "hunter2" * 8 + " instead"),
    ("text", "eyJhbGciOiJub25lIn0.eyJodW50ZXIyIjoxfQhunter2.hunter2"),
    ("text", "$argon2id$v=19$m=8,t=1,p=1$hunter2$hunter2"),
    ("text", "postgresql://app:hunter2@db/x"),
    ("text", Secret("hunter2")),
]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_secrets_are_blanked(
    capsys: pytest.CaptureFixture[str], log_format: Any, name: str, value: object
) -> None:
    """The last line of defence: names and shapes that only secrets have (case 263)."""
    configure_logging(log_format, "info")

    get_logger("a").info("something_happened", **{name: value})

    err = capsys.readouterr().err
    assert "something_happened" in err
    assert "hunter2" not in err


def test_a_secret_in_a_traceback_is_blanked(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages of foreign exceptions may quote what they were given."""
    configure_logging("json", "info")

    try:
        fail("bad token rt_" + "hunter2" * 8)
    except ValueError:
        get_logger("a").exception("request_failed")

    (record,) = records(capsys)
    assert "ValueError: bad token ***" in record["exception"]


def test_the_standard_library_logs_in_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    """uvicorn, SQLAlchemy and asyncio go through the same renderer; uvicorn's access log is off."""
    configure_logging("json", "info")

    logging.getLogger("uvicorn.error").warning("slow %s", "client\n")
    logging.getLogger("uvicorn.access").error("GET /?token=1")
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")
    try:
        fail("broken")
    except ValueError:
        logging.getLogger("asyncio").exception("Task failed")

    first, second = records(capsys)
    assert (first["level"], first["event"], first["module"]) == (
        "warning",
        "slow client\n",
        "uvicorn.error",
    )
    assert "ValueError: broken" in second["exception"]


def test_events_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL counts for loggers made before it was set, too."""
    logger = get_logger("a")
    configure_logging("json", "info")
    logger.info("first_happened")
    configure_logging("json", "error")
    logger.warning("second_happened")
    logger.error("third_happened")

    assert [r["event"] for r in records(capsys)] == ["first_happened", "third_happened"]


class FullDevice:
    """A stderr on a disk without room."""

    @property
    def buffer(self) -> "FullDevice":
        return self

    def write(self, _line: bytes) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stderr", [FullDevice(), None])
def test_a_broken_stderr_fails_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stderr: object
) -> None:
    """A line that cannot be written is dropped: the request is worth more."""
    configure_logging("json", "info")
    monkeypatch.setattr("sys.stderr", stderr)

    get_logger("a").info("something_happened")
    logging.getLogger("b").warning("something")

    monkeypatch.undo()
    get_logger("a").info("stderr_returned")
    assert [record["event"] for record in records(capsys)] == ["stderr_returned"]


def fail(message: str) -> None:
    raise ValueError(message)


def test_a_value_without_a_json_form_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line with an odd value is better than no line."""
    configure_logging("json", "info")

    get_logger("a").info("something_happened", value=object, error=ValueError("broken"))

    (record,) = records(capsys)
    assert record["error"] == "broken"
    assert record["value"] == "<class 'object'>"


def test_collected_lines_leave_together_and_a_warning_takes_them_along(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One system call a turn of the event loop; in their order, and nothing is kept at the end."""
    configure_logging("json", "info")
    turns: list[Callable[[], None]] = []
    log = get_logger("a")

    with lines_collected(turns.append):
        log.info("first")
        log.info("second")
        waiting = capsys.readouterr().err
        turns.pop()()
        flushed = records(capsys)
        log.info("third")
        log.warning("fourth")
        urgent = records(capsys)
        elsewhere = threading.Thread(target=log.info, args=("fifth",))
        elsewhere.start()
        elsewhere.join()
        from_a_thread = records(capsys)
        log.info("sixth")
    last = records(capsys)

    assert waiting == ""
    assert [r["event"] for r in flushed] == ["first", "second"]
    assert [r["event"] for r in urgent] == ["third", "fourth"]
    assert [r["event"] for r in from_a_thread] == ["fifth"]
    assert [r["event"] for r in last] == ["sixth"]
