"""The packaged list of common passwords."""

import hashlib
import re
import subprocess
import sys
from importlib import resources

from token_server.core.password_policy import (
    PasswordPolicy,
    PasswordProblem,
    folded,
    password_problem,
)
from token_server.crypto.blocklist import load_blocklist

DATA = resources.files("token_server.crypto").joinpath("data")


def test_list_is_large_and_in_the_form_that_is_compared() -> None:
    """At least 10,000 entries of 8 characters and more (case F 119), each already folded."""
    blocklist = load_blocklist()

    assert len(blocklist) >= 10_000
    assert all(len(word) >= 8 and folded(word) == word for word in blocklist)


def test_known_bad_passwords_are_refused_by_the_policy() -> None:
    """The top of every published list, in any case, is on ours."""
    policy = PasswordPolicy(8, 100, load_blocklist())

    for password in ("password", "12345678", "QWERTYUIOP", "iloveyou", "Football", "trustno1"):
        assert password_problem(password, policy) is PasswordProblem.COMMON
    assert password_problem("correct horse battery staple", policy) is None


def test_origin_and_licences_travel_with_the_list() -> None:
    """The notice names this very file by digest, and both licences it came under."""
    notice = DATA.joinpath("README.md").read_text("utf-8")
    packed = DATA.joinpath("common-passwords.txt.gz").read_bytes()

    assert hashlib.sha256(packed).hexdigest() in notice
    assert re.search(r"\b21,640\b", notice)
    assert len(load_blocklist()) == 21_640
    assert "Django Software Foundation" in notice
    assert "Dropbox, Inc." in notice


def test_importing_does_not_read_the_list() -> None:
    """Only setting a password pays for it: not starting, not logging in."""
    code = (
        "import token_server.crypto.blocklist as b, token_server.crypto.passwords;"
        "print(b.load_blocklist.cache_info().currsize)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "0"
