"""Coverage-guided fuzzing of what reads strangers' bytes: `scripts/fuzz --help`.

Each target runs in a process of its own with atheris. A crash is any exception but the library's
own; the input is then left in data/fuzz. Past the signature a key is used that takes every
signature: otherwise no changed claim would ever be looked at.
"""

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["token_server.verify"]):
    from token_server.verify import (
        InvalidRequestError,
        KeySetError,
        StaticKeySet,
        TokenError,
        Verifier,
        decode_unverified,
        read_bearer,
    )
    from token_server.verify.keys import VerificationKey
    from token_server.verify.strict import StrictnessError, decode_object
    from token_server.verify.urls import check_url

from tests.verify import forge
from tests.verify.key_servers import key_set

ARTIFACTS = Path("data/fuzz")


class CredulousKey(VerificationKey):
    """Takes every signature: what comes after it is to be reached."""

    def is_digest_signed(self, digest: bytes, signature: bytes) -> bool:  # noqa: ARG002
        return True


KEYS = StaticKeySet([CredulousKey(forge.kid(), forge.private_key("good").public_key())])
VERIFIER = Verifier(
    issuer=forge.ISSUER, audience=forge.AUDIENCE, keys=KEYS, clock=lambda: forge.NOW
)
HEADER = forge.b64(forge.compact_json(forge.header()))


def token(data: bytes) -> None:
    """The whole text, as it stands in an Authorization header."""
    text = data.decode("latin-1")
    for read in (VERIFIER.verify_sync, decode_unverified):
        try:
            read(text)
        except TokenError:
            continue


def header(data: bytes) -> None:
    """Any bytes as the header of a token that is good otherwise."""
    _verify(f"{forge.b64(data)}.{forge.b64(forge.compact_json(forge.claims()))}.AAAA")


def claims(data: bytes) -> None:
    """Any bytes as the claims of a token that is signed."""
    _verify(f"{HEADER}.{forge.b64(data)}.AAAA")


def _verify(text: str) -> None:
    try:
        found = VERIFIER.verify_sync(text)
    except TokenError:
        return
    if not found.subject or forge.AUDIENCE not in found.audience or found.expires_at <= forge.NOW:
        raise AssertionError("accepted what must not be accepted")


def jwks(data: bytes) -> None:
    """A key set, or metadata, as a server may send it."""
    try:
        document = decode_object(data)
    except StrictnessError:
        document = {}
    for uri in (document.get("issuer"), document.get("jwks_uri")):
        if isinstance(uri, str):
            try:
                check_url(uri, "jwks_uri")
            except ValueError:
                continue
    try:
        StaticKeySet.from_jwks(data)
    except KeySetError:
        return


def bearer(data: bytes) -> None:
    """The value of an Authorization header, behind its scheme and without."""
    text = data.decode("latin-1")
    for value in (text, "Bearer " + text):
        try:
            read_bearer([value])
        except InvalidRequestError:
            continue


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "token": (token, [forge.token().encode()]),
    "header": (header, [forge.compact_json(forge.header())]),
    "claims": (claims, [forge.compact_json(forge.claims()), b'{"nbf":1,"act":{"act":{}}}']),
    "jwks": (jwks, [key_set("good"), b'{"issuer":"https://a.example","jwks_uri":"https://b/"}']),
    "bearer": (bearer, [b"Bearer abc=", b"Basic dTpw"]),
}


def run_target(name: str, seconds: int, corpus: str) -> None:
    """In the child: does not return, libFuzzer ends the process."""
    target, seeds = TARGETS[name]
    for number, seed in enumerate(seeds):
        (Path(corpus) / str(number)).write_bytes(seed)
    options = ["-max_len=4096", f"-max_total_time={seconds}", "-print_final_stats=1"]
    options.append(f"-artifact_prefix={ARTIFACTS}/{name}-")
    atheris.Setup([sys.argv[0], *options, corpus], target)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        logging.disable()
        run_target(options.child[0], options.seconds, options.child[1])
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {min(unknown)}")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as corpus:
            command = [sys.executable, __file__, "--seconds", str(options.seconds)]
            run = subprocess.run(
                [*command, "--child", name, corpus],
                capture_output=True,
                text=True,
                timeout=options.seconds + 120,
                check=False,
            )
        failed += run.returncode != 0
        executed = re.search(r"number_of_executed_units: (\d+)", run.stderr)
        covered = re.findall(r"cov: (\d+)", run.stderr)
        print(
            f"{name:<8} {options.seconds} s, {executed[1] if executed else '?'} inputs,"
            f" {covered[-1] if covered else '?'} edges, "
            + ("no foreign exception" if run.returncode == 0 else f"FAILED\n{run.stderr[-3000:]}")
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
