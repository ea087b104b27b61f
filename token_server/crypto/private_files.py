"""Files that only this server's user may read: checks, reading, atomic writing, one lock.

A file of ours is a regular file, not a symbolic link, owned by the user the server runs as, and
closed to group and others. Problems name the file and the command that mends it, never content.
A write is: temporary file in the same directory, fsync, rename, fsync of the directory.
Must not decide what the bytes mean.
"""

import contextlib
import errno
import fcntl
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from token_server.errors import OperatorError

EntropySource = Callable[[int], bytes]

LOCK_NAME = ".lock"
LOCK_WAIT_S = 30.0  # a holder makes two RSA keys at most: seconds at 4096 bits on a slow core
MAX_FILE_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.[A-Za-z0-9_.-]+\.[0-9a-f]{16}\.tmp")
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class FileRule:
    """What the mode bits of a file may be, and whether a foreign owner or a link is a problem."""

    forbidden_bits: int
    is_ours: bool = True

    @property
    def fix_mode(self) -> str:
        return "600" if self.forbidden_bits & 0o077 == 0o077 else "go-w"


PRIVATE = FileRule(0o077)  # keys: nothing for group and others
PROTECTED = FileRule(0o022)  # the manifest: others may read it, nobody else may write it
MOUNTED = FileRule(0o002, is_ours=False)  # a container's secret: often a link, often root's


class FileProblemError(Exception):
    """One file that cannot be used; the text names it and says how to mend it."""


class UnsyncedError(OSError):
    """The file is in its place for everyone, but the disk did not confirm its name: after a loss
    of power the one before may be back."""


def read_file(path: Path, rule: FileRule) -> bytes:
    """The whole file, after checking the very file that was opened. FileProblemError when it
    breaks `rule` or cannot be read; FileNotFoundError when there is none."""
    flags = os.O_RDONLY | (_NO_FOLLOW if rule.is_ours else os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise FileProblemError(
                f"{path} is a symbolic link: replace it by the file itself"
            ) from None
        raise FileProblemError(f"{path} cannot be opened: {err.strerror}") from None
    try:
        problem = _status_problem(path, os.fstat(descriptor), rule)
        if problem is not None:
            raise FileProblemError(problem)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        raise FileProblemError(f"{path} cannot be read: {err.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise FileProblemError(f"{path} is too large to be what its name says")
    return content


def _status_problem(path: Path, status: os.stat_result, rule: FileRule) -> str | None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file"
    if rule.is_ours and status.st_uid != os.geteuid():
        return (
            f"{path} belongs to user {status.st_uid}, the server runs as {os.geteuid()}: "
            f"chown {os.geteuid()} {quoted}"
        )
    if status.st_mode & rule.forbidden_bits:
        mode = stat.S_IMODE(status.st_mode)
        if rule.is_ours:
            return f"{path} has mode {mode:04o}: chmod {rule.fix_mode} {quoted}"
        return f"{path} has mode {mode:04o}, anyone may write it: chmod o-w {quoted}"
    return None


def is_real_directory(directory: Path) -> bool:
    """Whether it is there, can be examined, and is no link."""
    try:
        return stat.S_ISDIR(directory.lstat().st_mode)
    except OSError:
        return False


def directory_problems(directory: Path, *, is_in_use: bool) -> list[str]:
    """What is wrong with a directory of ours; empty when it is good or not there yet.

    Before its first use only what cannot be mended by us is a problem: a fresh clone has 0755.
    """
    quoted = shlex.quote(str(directory))
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return _parent_problems(directory)
    except OSError as err:
        return [f"{directory} cannot be examined: {err.strerror}"]
    if stat.S_ISLNK(status.st_mode):
        return [f"{directory} is a symbolic link: name the directory itself in KEYS_DIR"]
    if not stat.S_ISDIR(status.st_mode):
        return [f"{directory} is not a directory"]
    problems = _parent_problems(directory)
    if status.st_uid != os.geteuid():
        problems.append(
            f"{directory} belongs to user {status.st_uid}, the server runs as {os.geteuid()}: "
            f"chown {os.geteuid()} {quoted}"
        )
    forbidden = 0o077 if is_in_use else 0o002
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        problems.append(f"{directory} has mode {mode:04o}: chmod 700 {quoted}")
    return problems


def _parent_problems(directory: Path) -> list[str]:
    parent = directory.absolute().parent
    try:
        mode = parent.stat().st_mode
    except OSError:
        return []  # making the directory will say it better
    # Whoever may rename our directory can put another in its place; the sticky bit prevents it.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return [f"{parent} may be written by anyone: chmod o-w {shlex.quote(str(parent))}"]
    return []


def make_directory(directory: Path) -> None:
    """Make `directory` with mode 0700, or close an existing one of ours. Safe to repeat."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if stat.S_IMODE(directory.lstat().st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as err:
        raise OperatorError(f"{directory} cannot be made: {err.strerror}") from None


@contextlib.contextmanager
def locked(directory: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the directory's exclusive lock. It ends with the process, so a kill never leaves it.

    OperatorError (exit code 5) when another process holds it for longer than `wait_s`.
    """
    path = directory / LOCK_NAME
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = _open_lock(path)
        try:
            if _take_lock(descriptor, path, deadline, wait_s):
                yield
                return
        finally:
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
    except OSError as err:
        raise OperatorError(f"{path} cannot be opened for locking: {err.strerror}") from None
    problem = _status_problem(path, os.fstat(descriptor), PRIVATE)
    if problem is not None:
        os.close(descriptor)
        raise OperatorError(problem)
    return descriptor


def _take_lock(descriptor: int, path: Path, deadline: float, wait_s: float) -> bool:
    """False when the lock was taken on a file that is not the lock any more: somebody restored
    the directory or removed the file, and others lock the new one."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _is_same_file(descriptor, path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise OperatorError(
                    f"{path} is held by another process for more than {wait_s:g} s: "
                    "wait for the other command to end, then try again",
                    exit_code=5,
                ) from None
            time.sleep(0.02)
        except OSError as err:
            raise OperatorError(f"{path} cannot be locked: {err.strerror}") from None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def write_file(path: Path, content: bytes, entropy: EntropySource) -> None:
    """Put `content` at `path` (0600) whole or not at all, and durably. Hold the lock.

    OSError when the disk refuses; then `path` is what it was, but for UnsyncedError: then the new
    file is there, as long as the power stays.
    """
    temporary = path.with_name(f".{path.name}.{entropy(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            os.fchmod(file.fileno(), 0o600)  # whatever the umask took away
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    try:
        sync_directory(path.parent)
    except OSError as err:
        raise UnsyncedError(err.errno, err.strerror) from None


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Remove what a killed `write_file` left. Hold the lock: a live one's must stay."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
