"""What no token server can do without, measured alone: an RSA-2048 signature, an Argon2id hash.

`python scripts/_floor.py signature|hash SECONDS` prints how many per second this core does and
the CPU time of one, as a line of JSON, with the libraries and parameters of the server.
"""

import json
import sys
import time
from collections.abc import Callable

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from token_server.config import Settings
from token_server.config_loading import load_settings

CONTENT = bytes(range(256)) * 2  # about what an access token signs


def signature() -> Callable[[], object]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    scheme, digest = padding.PKCS1v15(), SHA256()
    return lambda: key.sign(CONTENT, scheme, digest)


def password_hash() -> Callable[[], object]:
    settings: Settings = load_settings("tool", {}, {}).settings
    return lambda: hash_secret_raw(
        b"correct horse battery staple",
        bytes(16),
        time_cost=settings.argon2_time_cost,
        memory_cost=settings.argon2_memory_kib,
        parallelism=settings.argon2_parallelism,
        hash_len=32,
        type=Type.ID,
    )


def main(name: str, seconds: float) -> None:
    work = {"signature": signature, "hash": password_hash}[name]()
    count = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        work()
        count += 1
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps({"per_s": count / wall_s, "cpu_ms": 1000 * cpu_s / count}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
