"""What no token server can do without, measured alone: an RSA-2048 signature, an Argon2id hash.

A process of its own on the server's core: each line `signature SECONDS` or `hash SECONDS` on stdin
is answered with a line of JSON: how many per second this core does, and the CPU time of one.
With the libraries and parameters of the server.
"""

import json
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from token_server.config_loading import load_settings
from token_server.crypto.argon2id import SALT_BYTES, TAG_BYTES, Argon2Cost, derive

CONTENT = bytes(range(256)) * 2  # about what an access token signs


def signature() -> Callable[[], object]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    scheme, digest = padding.PKCS1v15(), SHA256()
    return lambda: key.sign(CONTENT, scheme, digest)


def password_hash() -> Callable[[], object]:
    settings = load_settings("tool", {}, {}).settings
    cost = Argon2Cost(
        settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism
    )
    return lambda: derive(b"correct horse battery staple", bytes(SALT_BYTES), cost, TAG_BYTES)


def measure(work: Callable[[], object], seconds: float) -> dict[str, float]:
    count = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        work()
        count += 1
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return {"per_s": count / wall_s, "cpu_ms": 1000 * cpu_s / count}


def main() -> None:
    works = {"signature": signature(), "hash": password_hash()}
    for line in sys.stdin:
        name, seconds = line.split()
        print(json.dumps(measure(works[name], float(seconds))), flush=True)


if __name__ == "__main__":
    main()
