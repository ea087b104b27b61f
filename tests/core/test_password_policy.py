"""What a new password must be (SP 800-63B-4 §3.1.1.2; cases F 115 to 121)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.password_policy import (
    PasswordPolicy,
    PasswordProblem,
    describe,
    folded,
    identity_of,
    normalise_password,
    password_problem,
)

POLICY = PasswordPolicy(8, 100, frozenset({"password1", "correct horse", "strasse12"}))
ALICE = identity_of("alice.smith@example.com", "Alice Smith")


@pytest.mark.parametrize(
    "password",
    [
        "8letters",
        "x" * 100,
        "alllowercase",
        "        ",
        " leading and trailing ",
        "😀😃😄😁😆😅😂🤣",
        "пароль и ещё",
        "👩‍👩‍👧 family",
        "\u00a0non-breaking",
        "my password1 is long",  # a blocked word inside a phrase (case F 120)
        "alice smith went home",
    ],
)
def test_long_enough_unknown_passwords_are_accepted(password: str) -> None:
    """No rule of composition, any script, spaces kept, whole comparison only (F 116, 120, 121)."""
    assert password_problem(password, POLICY, ALICE) is None


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("", PasswordProblem.TOO_SHORT),
        ("7letter", PasswordProblem.TOO_SHORT),
        ("😀" * 7, PasswordProblem.TOO_SHORT),  # code points, not UTF-16 units or bytes
        ("e\u0301" * 7, PasswordProblem.TOO_SHORT),  # 14 typed, 7 after NFC
        ("x" * 101, PasswordProblem.TOO_LONG),
        ("nul\x00inside", PasswordProblem.FORBIDDEN_CHARACTER),
        ("new\nline here", PasswordProblem.FORBIDDEN_CHARACTER),
        ("lone \ud800 surrogate", PasswordProblem.FORBIDDEN_CHARACTER),
        ("unassigned \u0378", PasswordProblem.FORBIDDEN_CHARACTER),
        ("password1", PasswordProblem.COMMON),
        ("PassWord1", PasswordProblem.COMMON),
        ("Correct Horse", PasswordProblem.COMMON),
        ("Stra\u00dfe12", PasswordProblem.COMMON),
        ("alice.smith@example.com", PasswordProblem.IDENTITY),
        ("ALICE.SMITH", PasswordProblem.IDENTITY),
        ("example.com", PasswordProblem.IDENTITY),
        ("alice smith", PasswordProblem.IDENTITY),
        ("AliceSmith", PasswordProblem.IDENTITY),
        ("Token-Server", PasswordProblem.IDENTITY),
    ],
)
def test_refused_passwords_have_their_reason(password: str, problem: PasswordProblem) -> None:
    """Each refusal says which rule it broke (cases F 115, 118, 119)."""
    assert password_problem(password, POLICY, ALICE) is problem


def test_length_edges_are_inclusive_after_nfc() -> None:
    """100 composed characters typed decomposed are 200 code points, and still 100 (F 115)."""
    assert password_problem("e\u0301" * 100, POLICY) is None
    assert password_problem("e\u0301" * 101, POLICY) is PasswordProblem.TOO_LONG


@given(st.text())
def test_normalising_is_a_fixed_point_and_keeps_spaces(text: str) -> None:
    """What is hashed at setting is what is hashed at each login."""
    once = normalise_password(text)
    assert normalise_password(once) == once
    assert once.count(" ") >= text.count(" ")


@given(st.text())
def test_judging_never_raises(text: str) -> None:
    """Whatever is typed gets an answer."""
    problem = password_problem(text, POLICY, ALICE)
    assert problem is None or isinstance(problem, PasswordProblem)
    assert folded(text) == folded(normalise_password(text))


@pytest.mark.parametrize("problem", list(PasswordProblem))
def test_each_problem_is_described_in_words(problem: PasswordProblem) -> None:
    """Every reason has a sentence, and those of length name the limit."""
    text = describe(problem, POLICY)
    assert text.startswith("the password ")
    if problem is PasswordProblem.TOO_SHORT:
        assert "8" in text
    if problem is PasswordProblem.TOO_LONG:
        assert "100" in text
