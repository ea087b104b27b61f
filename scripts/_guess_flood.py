"""Whether a flood of guesses ever gets more looked at than the budgets have (cases F108 to F114).

Rounds of guesses at once, at all processes, each round from another network: over every door that
the interface describes, and in every other round over those of passwords alone, which else meet
the budget of their network before their own. With `--kill` a process is killed by SIGKILL in the
middle of each round and started again, and the same network guesses once more. Judged by
tests/faults/guess_flood.py, from the servers' own logs.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from tests.faults.guess_flood import Flood, Interrupt, Site, flood, install, looked_at
from tests.support.guess_doors import Attack
from tests.support.load import open_connections
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import ServerProcess, start_server
from token_server.logs import configure_logging

_KILLED_WITHIN = 60  # answers: while some guesses are looked at and others wait


async def run_round(
    site: Site, attacks: Sequence[Attack], address: str, guesses: int, interrupt: Interrupt | None
) -> Flood:
    async with open_connections(site.addresses, guesses) as connections:
        statuses, elapsed_s = await flood(connections, attacks, address, interrupt)
    logs = [server.log_path for server in site.servers]
    return Flood(looked_at(logs, address), statuses, elapsed_s)


def together(first: Flood, second: Flood, pause_s: float) -> Flood:
    """Two floods from one network, before and after a restart that took so long."""
    statuses = first.statuses + second.statuses
    elapsed_s = first.elapsed_s + pause_s + second.elapsed_s
    return Flood(second.looked_at, statuses, elapsed_s)  # the logs have both


async def run(options: argparse.Namespace) -> int:
    chance = random.Random(options.seed)  # noqa: S311 - instants, not secrets
    with temporary_installation(options.database) as made:
        installation, secrets = await install(made.directory, made.database_url)
        names = [f"server-{number}" for number in range(options.processes)]
        servers: list[ServerProcess] = []
        try:
            servers += [start_server(installation, name=name) for name in names]
            site = Site(installation, servers, secrets)
            attacks = await site.attacks()
            passwords = [attack for attack in attacks if attack.kind == "password"]
            problems, totals, most = 0, Counter[str](), Counter[str]()
            for number in range(options.rounds):
                address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
                ways = passwords if number % 2 else attacks
                interrupt = None
                if options.kill:
                    interrupt = Interrupt(chance.randint(1, _KILLED_WITHIN), servers[0].kill)
                result = await run_round(site, ways, address, options.guesses, interrupt)
                if options.kill:
                    started = time.monotonic()
                    killed = servers.pop(0)
                    killed.kill()
                    servers.append(start_server(installation, name=killed.log_path.stem))
                    pause_s = time.monotonic() - started
                    again = await run_round(site, ways, address, options.guesses, None)
                    result = together(result, again, pause_s)
                for problem in result.problems():
                    problems += 1
                    print(f"round {number}: {problem}")
                totals += result.looked_at
                most |= result.looked_at
        finally:
            for server in servers:
                server.stop()
    print(
        f"{options.rounds} rounds of {options.guesses} guesses over {len(attacks)} ways in, "
        f"{options.processes} processes, {options.rounds if options.kill else 0} kills"
    )
    print(f"looked at: {dict(totals)}; most in a round: {dict(most)}; problems: {problems}")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/guess_flood", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--guesses", type=int, default=200, help="at once in each round")
    parser.add_argument("--processes", type=int, default=2, help="1 on SQLite")
    parser.add_argument("--database", default="postgresql", help=DATABASE_HELP)
    parser.add_argument("--kill", action="store_true", help="SIGKILL one in each round")
    parser.add_argument("--seed", type=int, default=1, help="of the instants of the kills")
    options = parser.parse_args()
    configure_logging("console", "warning")
    return asyncio.run(run(options))


if __name__ == "__main__":
    raise SystemExit(main())
