"""A real nginx from one of the files of docs/deploy, with the ports and names of a test."""

import contextlib
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.listening import START_TIMEOUT_S, wait_until_it_listens
from tests.support.load import Address

MISSING = "nginx is not installed: apt-get install nginx"
# What a distribution's nginx.conf has around a file of conf.d; everything is below one directory.
_MAIN = """
daemon off;
pid nginx.pid;
worker_processes 2;
error_log error.log info;
events { worker_connections 512; }
http {
    log_format upstreams '$msec $request_method $uri $status $request_time'
                         ' up=$upstream_addr status=$upstream_status';
    access_log access.log upstreams;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""


def find_nginx() -> str | None:
    """Its program, also where `sbin` is not in the PATH of people."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_address() -> Address:
    """A loopback address for a program that cannot take port 0; nothing else here asks for one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
        return str(host), int(port)


@dataclass(frozen=True, slots=True)
class Nginx:
    address: Address
    directory: Path

    def access_lines(self) -> list[str]:
        """One for each request: instant, method, path, status, seconds, and the upstreams."""
        return (self.directory / "access.log").read_text().splitlines()

    def count_errors(self) -> Counter[str]:
        """How often each error was logged, without what it was about."""
        lines = (self.directory / "error.log").read_text().splitlines()
        texts = [line.partition(": ")[2] for line in lines if "[error]" in line]
        return Counter(text.partition(" ")[2].partition(",")[0] for text in texts)


@contextlib.contextmanager
def running_nginx(
    program: str, directory: Path, site: Path, replacements: Mapping[str, str]
) -> Iterator[Nginx]:
    """nginx with the file `site`, listening on a free port of its own instead of 443.

    Each text of `replacements` must be in the file. TLS is left out: its certificate is not ours.
    """
    host, port = free_address()
    text = site.read_text()
    for old, new in {"listen 443 ssl;": f"listen {host}:{port};", **replacements}.items():
        assert old in text, f"{site.name} has no {old!r}"
        text = text.replace(old, new)
    lines = [line for line in text.splitlines() if not line.strip().startswith("ssl_certificate")]
    directory.mkdir(exist_ok=True)
    (directory / "site.conf").write_text("\n".join(lines) + "\n")
    (directory / "nginx.conf").write_text(_MAIN)
    command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
    with (directory / "output.log").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory
        )
    try:
        wait_until_it_listens(process, (host, port), directory / "output.log")
        yield Nginx((host, port), directory)
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)
