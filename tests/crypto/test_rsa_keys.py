"""RSA keys: names, sizes, weak shapes, and the form in which they rest."""

import os
import subprocess
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.support.keyrings import MASTER
from token_server.crypto import rsa_keys
from token_server.crypto.rsa_keys import KeyUnusableError, PublicHalf, RsaSigner
from token_server.crypto.secrets import MasterKeys
from token_server.records import StoredKeyring

KEK = MASTER.key_encryption_key(1)

# RFC 7638 3.1
EXAMPLE_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
    "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
    "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
    "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


def decode(text: str) -> int:
    import base64

    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")


def first_pem(first: StoredKeyring) -> bytes:
    pem = first.keys[0].private_pem
    assert pem is not None
    return pem


def test_kid_is_the_rfc_7638_thumbprint() -> None:
    """The example of RFC 7638 3.1 gives the thumbprint printed there."""
    assert (
        rsa_keys.thumbprint(decode(EXAMPLE_N), 65537)
        == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


def test_integers_have_no_leading_zero_octets() -> None:
    """Base64urlUInt of RFC 7518 2: 65537 is AQAB, and a set top bit adds no octet."""
    assert rsa_keys.encode_uint(65537) == "AQAB"
    assert rsa_keys.encode_uint(0x80) == "gA"


@pytest.mark.parametrize("bits", [2048, 3072])
def test_generated_keys_are_what_we_accept(bits: int) -> None:
    """A key of ours has the size asked for and e = 65537, and passes our own checks."""
    public = rsa_keys.public_half(rsa_keys.generate(bits).public_key())
    assert (public.bits, public.e) == (bits, 65537)
    rsa_keys.check_public(public)


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8192])
def test_other_sizes_are_not_generated(bits: int) -> None:
    """Small keys are unsafe, large ones slower than any verifier expects."""
    with pytest.raises(ValueError, match="2048, 3072 or 4096"):
        rsa_keys.generate(bits)


def roca_modulus(bits: int) -> int:
    """A modulus of the shape of CVE-2017-15361: a power of 65537 modulo all small primes."""
    product = 1
    for prime in rsa_keys._ROCA_PRIMES:
        product *= prime
    n = pow(65537, 1234567, product)
    n += product * ((1 << (bits - 1)) // product + 1)
    return n if n % 2 else n + product


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (PublicHalf("k", 1024, (1 << 1023) + 1, 65537), "size"),
        (PublicHalf("k", 2048, (1 << 2046) + 1, 65537), "size"),
        (PublicHalf("k", 8192, (1 << 8191) + 1, 65537), "size"),
        (PublicHalf("k", 2048, (1 << 2047) + 1, 3), "exponent"),
        (PublicHalf("k", 2048, (1 << 2047) + 2, 65537), "even"),
        (PublicHalf("k", 2048, roca_modulus(2048), 65537), "ROCA"),
        (PublicHalf("k", 4096, roca_modulus(4096), 65537), "ROCA"),
    ],
)
def test_unsafe_public_halves_are_refused(public: PublicHalf, reason: str) -> None:
    """Small, oddly sized, low-exponent, even and ROCA-shaped keys never sign."""
    with pytest.raises(KeyUnusableError, match=reason):
        rsa_keys.check_public(public)


def test_private_half_comes_back_from_rest(first: StoredKeyring) -> None:
    """What was encrypted under the master key is the key that the record names."""
    private = rsa_keys.load_private(first_pem(first), KEK)
    assert rsa_keys.public_half(private.public_key()).kid == first.keys[0].key.kid
    assert rsa_keys.encrypt_private(private, KEK) != first_pem(first)  # its own salt each time


def test_openssl_reads_a_private_half_with_the_documented_pass_phrase(
    first: StoredKeyring,
) -> None:
    """keys/README.md: the file is plain PKCS#8, and losing this program loses no key."""
    done = subprocess.run(
        ["openssl", "pkey", "-noout", "-text", "-passin", "stdin"],
        input=rsa_keys.pass_phrase(KEK) + b"\n" + first_pem(first),
        capture_output=True,
        check=False,
    )
    assert b"Private-Key: (2048 bit" in done.stdout, done.stderr


def encrypted(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(rsa_keys.pass_phrase(KEK)),
    )


def flip(pem: bytes) -> bytes:
    lines = pem.split(b"\n")
    lines[-4] = lines[-4][:10] + (b"A" if lines[-4][10:11] != b"A" else b"B") + lines[-4][11:]
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(flip, "damaged", id="a flipped character"),
        pytest.param(lambda _: encrypted(ec.generate_private_key(ec.SECP256R1())), "not an RSA"),
        pytest.param(lambda _: b"", "empty"),
        pytest.param(lambda pem: pem[:-20], "not one whole"),
    ],
)
def test_damaged_private_half_is_refused_without_its_bytes(
    change: Callable[[bytes], bytes], reason: str, first: StoredKeyring
) -> None:
    """The refusal names the kind of damage and carries no cause that could hold the key."""
    with pytest.raises(KeyUnusableError, match=reason) as caught:
        rsa_keys.load_private(change(first_pem(first)), KEK)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_another_master_key_opens_nothing(first: StoredKeyring) -> None:
    """Under a foreign key-encryption key the private half stays shut."""
    foreign = MasterKeys({1: os.urandom(32)})
    with pytest.raises(KeyUnusableError, match="another master key"):
        rsa_keys.load_private(first_pem(first), foreign.key_encryption_key(1))


def test_signature_is_rs256(first: StoredKeyring) -> None:
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 3.3), checked with the public half alone."""
    private = rsa_keys.load_private(first_pem(first), KEK)
    signer = RsaSigner("kid", private)
    private.public_key().verify(
        signer.sign(b"content"), b"content", padding.PKCS1v15(), hashes.SHA256()
    )
    assert signer.alg == "RS256"
    assert repr(signer) == "RsaSigner(kid='kid')"
