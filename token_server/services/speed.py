"""How fast this machine signs and hashes, and what that means for settings.

CPU time of one thread counts, not time on the clock: neighbours on a shared machine slow both
alike, and it is CPU time that logins and tokens pay with. Needs no database and no keys of ours.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from token_server.config_values import usual_hash_queue
from token_server.crypto import rsa_keys
from token_server.crypto.argon2id import (
    SALT_BYTES,
    TAG_BYTES,
    Argon2Cost,
    derive,
    library_for,
)
from token_server.services.settings_check import LEAST_ARGON2_MEMORY_KIB, LEAST_ARGON2_WORK_KIB

# Below it memory is raised, beyond it passes: a quarter of a GiB for each slot is much already.
MOST_MEMORY_KIB = 256 * 1024
TIME_COST = 2
SIGNED_BYTES = 512  # about what an access token signs
_LEAST_RUNS = 3
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class HashSpeed:
    """One Argon2id hash of this cost, on one core."""

    memory_kib: int
    time_cost: int
    parallelism: int
    library: str
    cpu_ms: float
    per_core_per_s: float


@dataclass(frozen=True, slots=True)
class HashAdvice:
    """The settings that one hash of `target_ms` needs; `is_floor`: they are the least that
    `serve` accepts, and take longer than was asked for."""

    target_ms: float
    speed: HashSpeed
    is_floor: bool
    password_hash_slots: int
    password_hash_queue: int
    memory_kib_of_all_slots: int
    logins_per_s: float


@dataclass(frozen=True, slots=True)
class SignatureSpeed:
    """RS256 with one key size, on one core."""

    key_bits: int
    sign_cpu_ms: float
    sign_per_core_per_s: float
    verify_cpu_ms: float
    verify_per_core_per_s: float


def measure_hash(cost: Argon2Cost, seconds: float) -> HashSpeed:
    """Hash for about so many seconds; the memory of one hash is needed."""
    salt = bytes(SALT_BYTES)
    cpu_ms = _cpu_ms(lambda: derive(b"a password of no one", salt, cost, TAG_BYTES), seconds)
    return HashSpeed(
        cost.memory_kib,
        cost.time_cost,
        cost.parallelism,
        library_for(cost),
        round(cpu_ms, 2),
        round(1000 / cpu_ms, 1),
    )


def advise_hash(target_ms: float, slots: int, seconds: float) -> HashAdvice:
    """One lane, memory first (it is what hinders attackers), never below OWASP's least profile."""
    cost = Argon2Cost(LEAST_ARGON2_WORK_KIB // TIME_COST, TIME_COST, 1)
    speed = measure_hash(cost, seconds / _ROUNDS)
    for _ in range(_ROUNDS - 1):
        work_kib = speed.memory_kib * speed.time_cost
        cost = _cost_of_work(int(work_kib * target_ms / speed.cpu_ms))
        speed = measure_hash(cost, seconds / _ROUNDS)
    queue = usual_hash_queue(slots, cost.memory_kib * cost.time_cost)
    return HashAdvice(
        target_ms=target_ms,
        speed=speed,
        is_floor=cost.memory_kib * cost.time_cost <= LEAST_ARGON2_WORK_KIB
        and speed.cpu_ms > target_ms,
        password_hash_slots=slots,
        password_hash_queue=queue,
        memory_kib_of_all_slots=slots * cost.memory_kib,
        logins_per_s=round(slots * 1000 / speed.cpu_ms, 1),
    )


def measure_signatures(sizes: Sequence[int], seconds: float) -> list[SignatureSpeed]:
    """Make a key of each size, sign and verify for about so many seconds with each."""
    return [_measure_signature(bits, seconds) for bits in sizes]


def _measure_signature(bits: int, seconds: float) -> SignatureSpeed:
    private = rsa_keys.generate(bits)
    signer = rsa_keys.RsaSigner("", private)
    content = bytes(SIGNED_BYTES)
    signature = signer.sign(content)
    public, padding, digest = private.public_key(), PKCS1v15(), SHA256()
    sign_ms = _cpu_ms(lambda: signer.sign(content), seconds / 2)
    verify_ms = _cpu_ms(lambda: public.verify(signature, content, padding, digest), seconds / 2)
    return SignatureSpeed(
        bits, round(sign_ms, 4), round(1000 / sign_ms), round(verify_ms, 4), round(1000 / verify_ms)
    )


def _cost_of_work(work_kib: int) -> Argon2Cost:
    work_kib = max(work_kib, LEAST_ARGON2_WORK_KIB)
    time_cost = max(TIME_COST, -(-work_kib // MOST_MEMORY_KIB))
    memory_kib = max(work_kib // time_cost, LEAST_ARGON2_MEMORY_KIB)
    return Argon2Cost(memory_kib, time_cost, 1)


def _cpu_ms(work: Callable[[], object], seconds: float) -> float:
    """The mean of as many runs as fit into `seconds` of CPU time, after one that counts not."""
    work()
    runs, started = 0, time.process_time()  # of all threads: several lanes use several
    while (spent := time.process_time() - started) < seconds or runs < _LEAST_RUNS:
        work()
        runs += 1
    return max(1000 * spent / runs, 1e-6)
