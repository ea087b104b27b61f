"""No core dump and no look into the memory of a process that holds private keys (ASVS 16.2.5)."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import Installation, start_server

_READ_MEMORY = """
import re, sys
maps = open(f"/proc/{sys.argv[1]}/maps").read()
start = int(re.search("^([0-9a-f]+)-[0-9a-f]+ rw", maps, re.MULTILINE)[1], 16)
memory = open(f"/proc/{sys.argv[1]}/mem", "rb")
memory.seek(start)
print(len(memory.read(16)))
"""


def core_limits(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Max core file size")]
    return line.split()[4:6]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_server_leaves_no_core(tmp_path: Path) -> None:
    """However generous the limits it was started with: soft and hard are nothing, and an abort
    dumps no core."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        server = start_server(Installation(tmp_path, "sqlite:///data/token-server.db"), "dev")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert core_limits(server.pid) == ["0", "0"]
    os.kill(server.pid, signal.SIGABRT)
    ended = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    server.process.wait()
    assert ended is not None
    assert (ended.si_status, ended.si_code) == (signal.SIGABRT, os.CLD_KILLED)  # not CLD_DUMPED
    assert not list(tmp_path.glob("core*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_same_user_cannot_read_a_servers_memory(tmp_path: Path) -> None:
    """Another process of the server's own user, a plug-in of a neighbour say, is refused."""
    plain_user = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if plain_user and shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv to be less than root")

    def read(pid: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*plain_user, sys.executable, "-c", _READ_MEMORY, str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )

    sleeper = subprocess.Popen([*plain_user, "sleep", "60"])
    is_readable = read(sleeper.pid).returncode == 0
    sleeper.kill()
    sleeper.wait()
    if not is_readable:
        pytest.skip("this kernel lets no process read another one's memory")

    installation = Installation(tmp_path, f"sqlite:///{tmp_path}/token-server.db")
    server = start_server(installation, wrapper=plain_user)
    try:
        answer = read(server.pid)
    finally:
        assert server.stop() == 0
    assert answer.returncode != 0
    assert "Permission denied" in answer.stderr
