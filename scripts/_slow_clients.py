"""Slow clients by the thousand against a server of its own; see tests/faults/slow_clients.py."""

import argparse
import asyncio
import sys

from tests.faults.slow_clients import ALLOWED_S, Plan, Report, many_descriptors, run_drill
from tests.faults.slow_crowd import KINDS
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import Installation, running_processes
from token_server.logs import configure_logging
from token_server.services.clients import NewClient, add_client

CLIENT = "billing"
DESCRIPTION = """\
Opens sockets that are silent, send a byte a second of a head or of a body, or read nothing, to a
server of its own on 127.0.0.1, and asks for keys and machine tokens at a fixed pace meanwhile. Exit
code 1 when a request of the others failed, or a slow socket was open for longer than allowed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/slow_clients", description=DESCRIPTION)
    parser.add_argument("--sockets", type=int, default=2000, help="of all kinds together")
    parser.add_argument("--per-second", type=float, default=100, help="requests of the others")
    parser.add_argument("--quiet", type=float, default=15, help="seconds before, to compare with")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    options = parser.parse_args()
    if sys.platform != "linux":
        print("It counts descriptors in /proc, which only Linux has.", file=sys.stderr)
        return 2
    configure_logging("console", "warning")
    plan = Plan(options.sockets // len(KINDS), options.per_second, options.quiet)
    with many_descriptors(), temporary_installation(options.database) as installation:
        report = asyncio.run(_run(installation, plan))
    print(report.text())
    return 1 if report.failures or report.gone_s > ALLOWED_S else 0


async def _run(installation: Installation, plan: Plan) -> Report:
    async with installation.runtime() as runtime:
        _, secret = await add_client(runtime, NewClient(CLIENT, ("client_credentials",)))
    if secret is None:
        raise RuntimeError("a client without a secret")
    with running_processes(installation) as (server,):
        return await run_drill(server, secret.reveal(), CLIENT, plan)


if __name__ == "__main__":
    raise SystemExit(main())
