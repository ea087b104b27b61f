"""`token-server keys doctor URL...`: does everybody serve the keys that this keyring says?

Fetches each address once (cli/http_client.py: bounded, no redirect followed) and prints what
services/key_doctor.py finds. Exit code 1 when something failed.
"""

import asyncio
from collections.abc import Sequence

import click

from token_server.cli.context import CliContext, emit, json_option, stated_policy
from token_server.cli.doctor import MARKS
from token_server.cli.http_client import request
from token_server.core.key_changes import Unchanged
from token_server.errors import OperatorError
from token_server.runtime import Clock, SystemClock, SystemEntropy
from token_server.services.key_doctor import Answer, JwksReport, Replica, examine_jwks, jwks_url
from token_server.services.keys import KeyPlace, keys_opened

_MOST_URLS = 64


@click.command("doctor")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@json_option
@click.pass_obj
def doctor_command(cli: CliContext, *, urls: tuple[str, ...], as_json: bool) -> None:
    """Compare the keys that replicas and gateways serve with the keyring, and with each other.

    Each URL is the base of a server, or the whole address of a JWKS. Give every replica by its
    own address, and every gateway or CDN in front of them by its public one. Finds keys that are
    missing, foreign, differing or compromised, headers that keep verifiers from seeing a rotation
    in time, redirects, and clocks that differ. Exit code 1 when something failed.

    \b
    Example:
      token-server keys doctor http://10.0.0.1:8080 http://10.0.0.2:8080 https://auth.example
    """
    if len(urls) > _MOST_URLS:
        raise click.UsageError(f"at most {_MOST_URLS} addresses at a time")
    loaded = cli.load()
    place = KeyPlace(loaded.settings, SystemClock(), SystemEntropy(), stated_policy(loaded))
    report = asyncio.run(_examine(place, urls))
    emit(report, lambda: _text(report), as_json=as_json)
    if not report.ok:
        raise SystemExit(1)


async def _examine(place: KeyPlace, urls: Sequence[str]) -> JwksReport:
    async with keys_opened(place) as opened:
        keys = place.live(opened)
        fetches = (asyncio.to_thread(_fetch, jwks_url(url), place.clock) for url in urls)
        answers = await asyncio.gather(*fetches)
        # Read after the answers: what changed meanwhile must not look like a fault of theirs.
        proposal = await keys.propose(lambda _: Unchanged("only looked at"))
        return examine_jwks(proposal.situation, keys.keyring.keyring_id, answers)


def _fetch(url: str, clock: Clock) -> Answer:
    try:
        # Replicas are asked behind their proxy, where they speak plain HTTP: nothing is secret
        # in a JWKS, and what it holds is compared with the keyring.
        answer = request(url, is_private=True)
    except OperatorError as error:
        if error.exit_code == 2:
            raise
        return Answer(url, problem=error.message)
    return Answer(url, answer.status, answer.headers, answer.body, received_at=clock.now())


def _text(report: JwksReport) -> str:
    lines = [f"Keyring {report.keyring_id} publishes {len(report.expected)} keys:"]
    lines += [f"  {kid}" for kid in report.expected]
    for replica in report.replicas:
        lines += ["", _heading(replica)]
        for finding in replica.findings:
            lines.append(f"  {MARKS[finding.level]}  {finding.check:<12}  {finding.detail}")
            if finding.fix:
                lines.append(f"                      -> {finding.fix}")
    lines += ["", _verdict(report)]
    return "\n".join(lines)


def _heading(replica: Replica) -> str:
    clock = (
        "" if replica.clock_difference_s is None else f", clock {replica.clock_difference_s:+d} s"
    )
    return f"{replica.url}  ({len(replica.kids)} keys{clock})"


def _verdict(report: JwksReport) -> str:
    sets = {frozenset(replica.kids) for replica in report.replicas}
    if len(sets) > 1:
        return f"The {len(report.replicas)} addresses do NOT serve the same keys."
    if report.ok:
        return "All serve what the keyring says." if len(report.replicas) > 1 else "All is well."
    return "Something is wrong: see above."
