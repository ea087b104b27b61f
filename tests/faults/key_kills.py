"""kill -9 at every step of every operation that writes signing keys, and a look at what is left.

Everything happens in forked processes, one after another. This process itself starts no thread
and touches no key, so that forks are safe.
"""

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.key_checks import Before, Found, examine, leftovers, read_before
from tests.faults.key_operations import OVERRIDES, Operation
from tests.faults.key_steps import Stepper, Told, run_forked
from tests.support.process import Installation
from token_server.logs import configure_logging

WHOLE = "not killed"
_MASTER_KEY = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"


@dataclass(frozen=True, slots=True)
class Kill:
    """One run that was killed before `step` (or, the last one, was not), and what was found."""

    step: str
    outcome: str
    problems: tuple[str, ...]


def _watch_files(stepper: Stepper, installation: Installation) -> None:
    stepper.watch_files(installation.directory / "keys")


def _database_beside(_before: Installation | None, directory: Path) -> str:
    return f"sqlite:///{directory}/token-server.db"  # the file is copied with the directory


@dataclass(slots=True)
class Place:
    """Where installations are made, what counts as a step of theirs, how the database of one is
    copied for another one, and how to wait until it answers after a kill."""

    directory: Path
    overrides: dict[str, str] = field(default_factory=dict)
    watch: Callable[[Stepper, Installation], None] = _watch_files
    database_of: Callable[[Installation | None, Path], str] = _database_beside
    settle: Callable[[Installation], None] = lambda _installation: None

    def make(self, name: str, before: Installation | None = None) -> Installation:
        """A new installation, or a copy of the one before."""
        directory = self.directory / name
        if before is None:
            directory.mkdir()
            if "KEY_STORE" in self.overrides:  # every instance is given the master key
                (directory / "master.key").write_text(_MASTER_KEY)
                (directory / "master.key").chmod(0o600)
        else:
            shutil.copytree(before.directory, directory)
        url = self.database_of(before, directory)
        return Installation(directory, url, OVERRIDES | self.overrides)


def kill_at_each_step(
    operation: Operation, place: Place, first: int = 1, every: int = 1
) -> Iterator[Kill]:
    """Kill runs of `operation` before its steps `first`, `first + every` and so on, until a run
    is not met by its kill; that one is examined too."""
    template = place.make("template")
    status, _ = run_forked(lambda _: operation.prepare(template), None, _log(template))
    if status != 0:
        raise RuntimeError(_log(template).read_text())
    before = _ask(template, lambda: read_before(template, operation))
    if before is None:
        raise RuntimeError(_log(template).read_text())
    number, is_over = first, False
    while not is_over:
        installation = place.make(f"run-{number}", template)
        status, told = _play(operation, installation, place, number)
        is_over = len(told.steps) < number
        step = WHOLE if is_over else told.steps[-1]
        found = _look(operation, installation, place, (Before(**before), told))
        if is_over and status != 0:
            found.problems.append(f"status {status} without a kill")
        if found.problems:
            found.problems.append(_log(installation).read_text()[-2000:])
        yield Kill(step, found.outcome, tuple(found.problems))
        shutil.rmtree(installation.directory)
        number += every
    shutil.rmtree(template.directory)


def _look(
    operation: Operation, installation: Installation, place: Place, known: tuple[Before, Told]
) -> Found:
    """Start on what is there, then run the operation again to its end: nothing is left over."""
    before, told = known
    place.settle(installation)
    answer = _ask(installation, lambda: examine(installation, operation, before, told))
    found = Found(problems=["the next start fails"]) if answer is None else Found(**answer)
    status, _ = _play(operation, installation, place, None, told.at)
    if status not in operation.done_codes:
        found.problems.append(f"running it again ends with status {status}")
    elif "KEY_STORE" not in installation.overrides:
        keys_dir = installation.directory / "keys"
        found.problems += [f"left over: {name}" for name in leftovers(keys_dir)]
    return found


def _play(
    operation: Operation,
    installation: Installation,
    place: Place,
    kill_at: int | None,
    begin: int = 0,
) -> tuple[int, Told]:
    def act(stepper: Stepper) -> None:
        place.watch(stepper, installation)
        if operation.writes_database and place.watch is _watch_files:
            stepper.watch_statements()
        operation.act(installation, stepper, begin)

    return run_forked(act, kill_at, _log(installation))


def _ask(
    installation: Installation, question: Callable[[], Coroutine[Any, Any, Any]]
) -> dict[str, Any] | None:
    """The answer, a dataclass as a dict, from a process of its own; None when it failed."""

    def answer(stepper: Stepper) -> None:
        configure_logging("json", "error")
        stepper.tell(answer=dataclasses.asdict(asyncio.run(question())))

    _, told = run_forked(answer, None, _log(installation))
    return told.answer


def _log(installation: Installation) -> Path:
    return installation.directory / "log"
