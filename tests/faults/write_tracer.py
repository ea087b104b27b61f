"""Follows the writes of a running process by ptrace(2), and kills it at one of them.

The process is as it always is: nothing is loaded into it and nothing of it is replaced. It is
stopped at each system call, and SIGKILL meets it there: before the call (which is then never
made), or after it. Like a debugger, this needs the right to trace: the kernel gives it over
children of this process and, to root, over all.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tests.faults.write_steps import CALLS, Call

Moment = Literal["before", "after"]

_SYSCALL, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 24, 0x4206, 0x4207, 0x420E
_TRACE_SYSGOOD, _TRACE_CLONE = 0x1, 0x8
_ALL_OF_THIS_THREAD = 0x40000000 | 0x20000000  # __WALL, __WNOTHREAD
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY, _EXIT = 1, 2
_PATIENCE_S = 60.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class _SyscallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, as far as the entry of a call fills it."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class Tracer:
    """Watches `pids` from `start` until they are gone; what it saw is read after `join`.

    A thread of its own, because only the thread that seized a process may go on with it. Nobody
    else may wait for one of the processes before `join` has returned.
    """

    def __init__(
        self,
        pids: Sequence[int],
        step_of: Callable[[Call], str | None],
        kill_at: int | None,
        moment: Moment = "before",
    ) -> None:
        """The process that makes step `kill_at` (1 is the first) is killed at that moment."""
        self.steps: list[str] = []
        self.is_met = False  # whether the kill at `kill_at` came about
        self.statuses: dict[int, int] = {}  # as `subprocess` has them
        self.pids = tuple(pids)
        self._step_of = step_of
        self._kill_at = kill_at
        self._moment = moment
        self._process_of: dict[int, int] = {}
        self._at_exit: set[int] = set()
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)

    def start(self) -> None:
        """Returns when every thread of the processes is watched. Raises PermissionError where
        that is not allowed."""
        self._thread.start()
        self._is_ready.wait(_PATIENCE_S)
        if self._failure is not None:
            raise self._failure

    def kill(self) -> None:
        """At no step; harmless when they are gone."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def join(self) -> None:
        """Waits until all processes are gone."""
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            raise TimeoutError("a traced process does not end")
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for pid in self.pids:
                self._seize(pid)
            self._is_ready.set()
            self._follow()
        except BaseException as error:  # noqa: BLE001 - raised in whoever waits
            self._failure = error
        finally:
            self._is_ready.set()

    def _seize(self, pid: int) -> None:
        """All threads, those that begin meanwhile included."""
        while True:
            threads = {int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()}
            new = [tid for tid in threads if tid not in self._process_of]
            if not new:
                return
            for tid in new:
                try:
                    _ptrace(_SEIZE, tid, 0, _TRACE_SYSGOOD | _TRACE_CLONE)
                    _ptrace(_INTERRUPT, tid)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    if tid not in self._process_of and not _is_traced_here(tid):
                        raise
                self._process_of[tid] = pid

    def _follow(self) -> None:
        while True:
            try:
                tid, status = os.waitpid(-1, _ALL_OF_THIS_THREAD)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                self.statuses[tid] = os.waitstatus_to_exitcode(status)
                continue
            passed_on = 0
            if os.WSTOPSIG(status) == _SYSCALL_STOP:
                self._look(tid)
            elif status >> 16 == 0:  # no event of the tracing: a signal on its way
                passed_on = os.WSTOPSIG(status)
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                _ptrace(_SYSCALL, tid, 0, passed_on)

    def _look(self, tid: int) -> None:
        info = _SyscallInfo()
        size = ctypes.sizeof(info)
        try:
            _ptrace(_GET_SYSCALL_INFO, tid, size, ctypes.addressof(info))
        except ProcessLookupError:
            return
        if info.op == _EXIT and tid in self._at_exit:
            self._meet(tid)
        if info.op != _ENTRY or info.number not in CALLS or self.is_met:
            return
        name = self._step_of(Call(self._process(tid), info.number, tuple(info.arguments)))
        if name is None:
            return
        self.steps.append(name)
        if len(self.steps) == self._kill_at:
            if self._moment == "before":
                self._meet(tid)
            else:
                self._at_exit.add(tid)

    def _meet(self, tid: int) -> None:
        self.is_met = True
        self._at_exit.clear()
        os.kill(self._process(tid), signal.SIGKILL)

    def _process(self, tid: int) -> int:
        """Threads that began after `start` are known to the kernel alone."""
        if tid not in self._process_of:
            for line in Path(f"/proc/{tid}/status").read_text("ascii").splitlines():
                if line.startswith("Tgid:"):
                    self._process_of[tid] = int(line.split()[1])
        return self._process_of[tid]


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def _is_traced_here(tid: int) -> bool:
    """A thread that one of ours began, and that the kernel seized with it."""
    lines = Path(f"/proc/{tid}/status").read_text("ascii").splitlines()
    return f"TracerPid:\t{threading.get_native_id()}" in lines
