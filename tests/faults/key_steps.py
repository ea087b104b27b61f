"""The steps of a change to the keys, and a process that is killed at one of them.

A step is a system call that changes the key directory (`FILE_CALLS`; test_key_kills.py holds the
list against what strace sees) or, with keys in the database, a statement that writes or a commit.
A process is killed by SIGKILL just before its step: the state between any two steps is met.
"""

import json
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

FILE_CALLS = ("open", "fchmod", "chmod", "fsync", "replace", "unlink", "mkdir", "ftruncate")
_RANDOM = re.compile(r"[0-9a-f]{16}")
_KID = re.compile(r"[A-Za-z0-9_-]{43}(?=\.pem)")
_PATIENCE_S = 60  # a process that hangs ends with SIGALRM
_WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(slots=True)
class Told:
    """What a process told of itself before it ended."""

    steps: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    at: int = 0  # its clock, when it told one
    answer: dict[str, Any] | None = None


def _end_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Stepper:
    """Counts the steps of this process, tells their names, and ends it before step `kill_at`."""

    def __init__(self, pipe: int, kill_at: int | None) -> None:
        self._pipe = pipe
        self._kill_at = kill_at
        self._count = 0
        self._lock = threading.Lock()

    def tell(self, **facts: Any) -> None:
        os.write(self._pipe, json.dumps(facts).encode() + b"\n")

    def step(self, name: str, end: Callable[[], None] = _end_process) -> None:
        with self._lock:
            self._count += 1
            self.tell(step=name)
            if self._count == self._kill_at:
                end()

    def watch_files(self, directory: Path) -> None:
        """Every call that changes something in or at `directory`."""
        for call in FILE_CALLS:
            setattr(os, call, self._watched(call, getattr(os, call), str(directory)))

    def _watched(self, call: str, real: Any, directory: str) -> Any:
        def watched(target: Any, *args: Any, **kwargs: Any) -> Any:
            path = _path_of(target)
            is_ours = path == directory or path.startswith(directory + "/")
            if is_ours and (call != "open" or args[0] & os.O_CREAT):
                self.step(f"{call} {name_of(path, directory)}")
            return real(target, *args, **kwargs)

        return watched

    def watch_statements(self, kill: Callable[[Connection], None] | None = None) -> None:
        """Every statement that writes, and every commit, on any database of this process. `kill`
        is what ends a step's connection, instead of this process."""

        def step(connection: Connection, name: str) -> None:
            self.step(name, _end_process if kill is None else lambda: kill(connection))

        def execute(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            words = statement.split()
            if words[0] in _WRITES:
                step(connection, " ".join(words[: 2 if words[0] == "UPDATE" else 3]))

        event.listen(Engine, "before_cursor_execute", execute)
        event.listen(Engine, "commit", lambda connection: step(connection, "COMMIT"))


def _path_of(target: Any) -> str:
    if isinstance(target, int):
        try:
            return str(Path(f"/proc/self/fd/{target}").readlink())
        except OSError:
            return ""
    return os.fspath(target) if isinstance(target, str | os.PathLike) else ""


def name_of(path: str, directory: str) -> str:
    """The same name for the same step of every run."""
    inside = path.removeprefix(directory).lstrip("/") or "keys/"
    return _KID.sub("KID", _RANDOM.sub("*", inside))


def run_forked(act: Callable[[Stepper], None], kill_at: int | None, log: Path) -> tuple[int, Told]:
    """Run `act` in a forked process, which is killed before its step number `kill_at`.

    Returns its status as `subprocess` gives it, and what it told. What it prints goes to `log`.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(act, Stepper(writing, kill_at), log)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor, not a path
        lines = pipe.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), _told(lines)


def _become(act: Callable[[Stepper], None], stepper: Stepper, log: Path) -> None:
    """In the child: never returns."""
    code = 1
    signal.alarm(_PATIENCE_S)
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        act(stepper)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the parent must never get a second life
        traceback.print_exc()
    finally:
        os._exit(code)


def _told(lines: Sequence[str]) -> Told:
    told = Told()
    for line in lines:
        facts = json.loads(line)
        if "step" in facts:
            told.steps.append(facts["step"])
        if "token" in facts:
            told.tokens.append(facts["token"])
        told.answer = facts.get("answer", told.answer)
        told.at = facts.get("at", told.at)
    return told
