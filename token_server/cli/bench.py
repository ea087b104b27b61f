"""`token-server bench`: what this machine can do, as a base for settings.

Measures and prints; changes nothing and needs neither database nor keys.
"""

from typing import TYPE_CHECKING

import click

from token_server.cli.context import CliContext, emit, json_option, setting_options

if TYPE_CHECKING:
    from token_server.services.speed import HashAdvice, HashSpeed, SignatureSpeed

KEY_SIZES = (2048, 3072, 4096)


@click.group()
def bench() -> None:
    """Measure password hashes and signatures on this machine.

    CPU time counts, so that neighbours matter little. Whole requests: `scripts/bench`.
    """


@bench.command()
@click.option(
    "--target-ms",
    type=click.FloatRange(1, 5000),
    default=250.0,
    show_default=True,
    help="CPU time that one hash should take.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 60),
    default=3.0,
    show_default=True,
    help="For how long.",
)
@setting_options(
    "argon2_memory_kib", "argon2_time_cost", "argon2_parallelism", "password_hash_slots"
)
@json_option
@click.pass_obj
def argon2(cli: CliContext, *, target_ms: float, seconds: float, as_json: bool) -> None:
    """What a password hash costs as it is set, and settings for a target.

    A dearer hash makes stolen hashes harder to guess, and the server slower to log people in:
    all slots together do `logins_per_s`, and each of them takes the memory of one hash.
    """
    from token_server.crypto.argon2id import Argon2Cost
    from token_server.services.speed import advise_hash, measure_hash

    settings = cli.settings()
    cost = Argon2Cost(
        settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism
    )
    now = measure_hash(cost, seconds / 2)
    advice = advise_hash(target_ms, settings.password_hash_slots, seconds / 2)
    emit({"now": now, "advice": advice}, lambda: _hash_text(now, advice), as_json=as_json)


@bench.command()
@click.option(
    "--bits",
    type=click.Choice([str(size) for size in KEY_SIZES]),
    multiple=True,
    help="Key size; may be repeated. By default all.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 60),
    default=1.0,
    show_default=True,
    help="For each size.",
)
@json_option
def sign(*, bits: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """How many access tokens one core can sign, and a service verify (RS256).

    Nothing that issues tokens gets beyond the first figure. Keys are made for it and forgotten.
    """
    from token_server.services.speed import measure_signatures

    speeds = measure_signatures([int(size) for size in bits] or KEY_SIZES, seconds)
    emit({"signatures": speeds}, lambda: _signature_text(speeds), as_json=as_json)


def _hash_text(now: "HashSpeed", advice: "HashAdvice") -> str:
    speed = advice.speed
    lines = [
        f"now        {_cost(now)}: {now.cpu_ms:.1f} ms of one core by {now.library}",
        f"suggested  {_cost(speed)}: {speed.cpu_ms:.1f} ms by {speed.library}",
        "",
        f"TOKEN_SERVER_ARGON2_MEMORY_KIB={speed.memory_kib}",
        f"TOKEN_SERVER_ARGON2_TIME_COST={speed.time_cost}",
        f"TOKEN_SERVER_ARGON2_PARALLELISM={speed.parallelism}",
        f"TOKEN_SERVER_PASSWORD_HASH_SLOTS={advice.password_hash_slots}",
        f"TOKEN_SERVER_PASSWORD_HASH_QUEUE={advice.password_hash_queue}",
        "",
        f"With them at most {advice.logins_per_s:g} logins a second.",
        f"All slots together take {advice.memory_kib_of_all_slots / 1024:.0f} MiB while they hash.",
    ]
    if advice.is_floor:
        lines.append("This is the least that `serve` accepts: less would be easy to guess.")
    return "\n".join(lines)


def _cost(speed: "HashSpeed") -> str:
    return f"m={speed.memory_kib},t={speed.time_cost},p={speed.parallelism}"


def _signature_text(speeds: "list[SignatureSpeed]") -> str:
    lines = ["bits   sign ms  signatures/s  verify ms  verifications/s   (one core)"]
    lines += [
        f"{speed.key_bits:<5}  {speed.sign_cpu_ms:>7.3f}  {speed.sign_per_core_per_s:>12,.0f}  "
        f"{speed.verify_cpu_ms:>9.4f}  {speed.verify_per_core_per_s:>15,.0f}"
        for speed in speeds
    ]
    return "\n".join(lines)
