"""Keeping the memory of a process that holds private keys out of files and other processes.

A core dump would be a copy of every key. The limit stops the kernel from writing one, but not
from handing it to a program (core(5): a `core_pattern` that begins with `|`), so a server is also
made not dumpable, which keeps other processes of its user from reading its memory too.
Only root can look into it then: `py-spy` and `gdb` need root.
"""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # prctl(2), <linux/prctl.h>


def forbid_core_files() -> None:
    """For this process and all that it starts; nothing can raise the limit again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_memory() -> None:
    """For this process only, on Linux; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
