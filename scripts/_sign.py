"""RSA-2048 signatures per second of this core, with the library that the server signs with.

Prints one line of JSON. The server's floor: one token costs one signature.
"""

import json
import sys
import time

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

CONTENT = bytes(range(256)) * 2  # about what an access token signs


def main(seconds: float) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    scheme, digest = padding.PKCS1v15(), SHA256()
    count = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for _ in range(50):
            key.sign(CONTENT, scheme, digest)
        count += 50
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps({"per_s": count / wall_s, "cpu_ms": 1000 * cpu_s / count}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
