"""Starts the servers of a keyring by the command line, and registers the drill's clients there."""

import base64
import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tests.faults.rotation.load import register
from tests.faults.rotation.world import Ring
from tests.support.databases import run_apart
from tests.support.process import Installation, running_processes


@contextlib.contextmanager
def running_ring(
    name: str, installation: Installation, settings: Mapping[str, str], servers: int = 1
) -> Iterator[Ring]:
    """`servers` processes over one keyring in `installation`, with `settings` beside its own."""
    issuer = {"ISSUER": f"https://{name}.example"}
    installation = replace(installation, overrides={**installation.overrides, **settings, **issuer})
    with running_processes(installation, servers) as processes:
        secret = run_apart(_register(installation))
        yield Ring(name, installation, processes, secret)


def with_keys_in_database(installation: Installation) -> Installation:
    """KEY_STORE=database, under a master key that its servers are given."""
    path = installation.directory / "given-master.key"
    path.touch(mode=0o600)
    path.write_bytes(base64.b64encode(secrets.token_bytes(32)) + b"\n")
    overrides = {"KEY_STORE": "database", "MASTER_KEY_FILE": str(path)}
    return replace(installation, overrides={**installation.overrides, **overrides})


async def _register(installation: Installation) -> str:
    async with installation.runtime() as runtime:
        return await register(runtime)
