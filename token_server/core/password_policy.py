"""What a new password must be, after NIST SP 800-63B-4 §3.1.1.2: long enough and not a known one.

Length counts code points after NFC and nothing is ever cut off; there are no rules of composition
and spaces stay. The whole password is compared with the blocklist and with what is known of its
owner; parts of it are not, so that a phrase may hold a common word. For passwords that are being
set: at a login only `normalise_password` applies.
"""

import enum
import unicodedata
from collections.abc import Container, Iterable
from dataclasses import dataclass

SERVICE_NAMES = ("token-server", "token server", "tokenserver")

# Lone surrogates, NUL and other controls cannot be typed alike everywhere; a code point that is
# not assigned yet may normalise differently one Unicode version later and lock its owner out.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Cn"})


class PasswordProblem(enum.StrEnum):
    """Why a password is refused; the value is a stable code for JSON answers."""

    TOO_SHORT = "password_too_short"
    TOO_LONG = "password_too_long"
    FORBIDDEN_CHARACTER = "password_forbidden_character"
    COMMON = "password_common"
    IDENTITY = "password_is_identity"


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    min_length: int
    max_length: int
    # Case-folded NFC, as `folded` makes it.
    blocklist: Container[str]


def normalise_password(text: str) -> str:
    """NFC, so that one password typed on two systems is one password; changes nothing else."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The form in which passwords are compared with the blocklist and with identities."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def password_problem(
    password: str, policy: PasswordPolicy, identity: Iterable[str] = ()
) -> PasswordProblem | None:
    """The first reason to refuse a password about to be set, or None.

    `identity` holds what anyone may know of its owner: e-mail and name (see `identity_of`).
    """
    text = normalise_password(password)
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in text):
        return PasswordProblem.FORBIDDEN_CHARACTER
    if len(text) < policy.min_length:
        return PasswordProblem.TOO_SHORT
    if len(text) > policy.max_length:
        return PasswordProblem.TOO_LONG
    compared = folded(text)
    if compared in {folded(word) for word in (*identity, *SERVICE_NAMES)}:
        return PasswordProblem.IDENTITY
    if compared in policy.blocklist:
        return PasswordProblem.COMMON
    return None


def identity_of(email: str, name: str) -> tuple[str, ...]:
    """What a password must not be equal to: the e-mail, its two parts and the name."""
    local, _, domain = email.partition("@")
    return (email, local, domain, name, name.replace(" ", ""))


def describe(problem: PasswordProblem, policy: PasswordPolicy) -> str:
    """One sentence for the person who chose the password; never repeats it."""
    match problem:
        case PasswordProblem.TOO_SHORT:
            return f"the password needs at least {policy.min_length} characters"
        case PasswordProblem.TOO_LONG:
            return f"the password may have at most {policy.max_length} characters"
        case PasswordProblem.FORBIDDEN_CHARACTER:
            return "the password holds a control or unassigned character"
        case PasswordProblem.COMMON:
            return "the password is on a list of common passwords: choose a less known one"
        case PasswordProblem.IDENTITY:
            return "the password is the e-mail, the name or the name of this service"
