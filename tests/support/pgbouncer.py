"""A real PgBouncer in transaction mode before a PostgreSQL server of the tests."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from tests.support.listening import START_TIMEOUT_S, wait_until_it_listens
from tests.support.nginx import free_address

MISSING = "PgBouncer is not installed: apt-get install pgbouncer"
# Fewer than the connections that a server opens, so that its clients have to share them.
SERVER_CONNECTIONS = 3
_CONFIGURATION = """
[databases]
{database} = host={host} port={port} dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 200
"""


def find_pgbouncer() -> str | None:
    """Its program, also where `sbin` is not in the PATH of people."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running_pgbouncer(program: str, directory: Path, database_url: str) -> Iterator[str]:
    """Before the database of `database_url`; yields the URL that leads through it, without any
    parameter. The server must let its user in without a password."""
    direct = make_url(database_url)
    user, database = direct.username or "postgres", direct.database or "postgres"
    server_host = direct.host or str(direct.query.get("host", "127.0.0.1"))
    host, port = free_address()
    directory.mkdir(exist_ok=True)
    users, configuration = directory / "users.txt", directory / "pgbouncer.ini"
    users.write_text(f'"{user}" "{direct.password or ""}"\n')
    configuration.write_text(
        _CONFIGURATION.format(
            database=database,
            host=server_host,
            port=direct.port or 5432,
            listen_port=port,
            directory=directory,
            server_connections=SERVER_CONNECTIONS,
        )
    )
    command = [program, str(configuration)]
    if os.geteuid() == 0:  # it refuses to run as root
        # A socket in a directory is for that directory's owner.
        owner = Path(server_host).owner() if server_host.startswith("/") else "nobody"
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, owner)
        command[1:1] = ["-u", owner]
    log_path = directory / "pgbouncer.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until_it_listens(process, (host, port), log_path)
        yield f"postgresql://{user}@{host}:{port}/{database}"
    finally:
        process.kill()
        process.wait(START_TIMEOUT_S)
