"""Which RSA public keys are fit to verify with: a pure decision over modulus and exponent.

RFC 7518 3.3 (2048 bits at least), NIST SP 800-56B 6.2 (odd exponent above 2^16), and the
fingerprint of ROCA, CVE-2017-15361. Shared by whoever takes in a key; needs no cryptography.
"""

import math

MIN_BITS = 2048
MAX_BITS = 8192  # verification time grows with the square: a huge key would be a lever
MIN_EXPONENT = 65537
MAX_EXPONENT = 2**31 - 1  # what Go, .NET and Java agree on

_SMALL_PRIMES = (
    *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73),
    *(79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167),
)
_SMALL_PRODUCT = 2 * math.prod(_SMALL_PRIMES)


def rsa_problem(modulus: int, exponent: int) -> str | None:
    """Why this key must not be used, in words of ours, or None when it may."""
    bits = modulus.bit_length()
    if not MIN_BITS <= bits <= MAX_BITS:
        return f"modulus has {bits} bits, not {MIN_BITS} to {MAX_BITS}"
    if exponent % 2 == 0:
        return "exponent is even"
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        return f"exponent is not within {MIN_EXPONENT} to {MAX_EXPONENT}"
    if math.gcd(modulus, _SMALL_PRODUCT) != 1:
        return "modulus has a small factor"
    if is_roca_shaped(modulus):
        return "modulus has the ROCA fingerprint (CVE-2017-15361)"
    return None


def is_roca_shaped(modulus: int) -> bool:
    """Whether the modulus is a power of 65537 modulo every small prime, as Infineon's keys are.

    A sound key has this shape by chance about once in 2^27.
    """
    return all(modulus % prime in _powers_of_65537(prime) for prime in _SMALL_PRIMES)


def _powers_of_65537(prime: int) -> set[int]:
    powers: set[int] = set()
    power = 1
    while power not in powers:
        powers.add(power)
        power = power * 65537 % prime
    return powers
