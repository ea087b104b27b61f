"""Forms of the names that people and operators choose: e-mail, client id, scope, audience.

Decides what is accepted and which spelling stands for all the others (RFC 6749 §3.3 and App. A,
RFC 8707 §2; NFKC and casefold for e-mail). Every refusal is a fixed sentence of ours that never
repeats the input. Random bytes are passed in; whether a name is taken is not decided here.
"""

import base64
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import urlsplit

USER_ID_PREFIX = "usr_"
USER_ID_BYTES = 16
SECRET_ID_PREFIX = "cs_"
SECRET_ID_BYTES = 12
EMAIL_MAX_LENGTH = 254
NAME_MAX_LENGTH = 100
URI_MAX_LENGTH = 512
MAX_ROLES = 32

# Begins with a letter or digit: "..", "-x" and "~x" mean something to URLs, programs and shells.
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}", re.ASCII)
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]{1,128}")
_ABSOLUTE_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII
)
_WEB_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_WEB_URI = re.compile(r"https?://[^/?]+(?:[/?].*)?", re.IGNORECASE)

# Controls, format marks (zero-width, bidi, soft hyphen), lone surrogates, private use, unassigned:
# invisible, or of no fixed meaning, so two of them could look like one account.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks by category, but drawn as nothing (Unicode: Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\\u034F\\u115F\\u1160\\u17B4\\u17B5\\u180B-\\u180F\\u3164\\uFE00-\\uFE0F\\uFFA0"
    "\\U000E0100-\\U000E01EF]"
)


class IdentifierError(ValueError):
    """A name is refused; its text is fit for the person who typed it."""


def canonical_email(text: str) -> str:
    """The one spelling under which an e-mail is unique; IdentifierError when it is none.

    Outer spaces go, NFKC and casefold apply; the parts are not checked against RFC 5321, since
    only a delivered message proves an address.
    """
    if len(text) > 4 * EMAIL_MAX_LENGTH:  # before work that grows with the input
        raise IdentifierError(f"the e-mail is longer than {EMAIL_MAX_LENGTH} characters")
    if any(_is_refused(character) for character in text):
        raise IdentifierError("the e-mail holds a control, invisible or unassigned character")
    canonical = _fold(text).strip(" ")
    if len(canonical) > EMAIL_MAX_LENGTH:
        raise IdentifierError(f"the e-mail is longer than {EMAIL_MAX_LENGTH} characters")
    # Again: folding may compose what was refused above, or turn a look-alike into a space or "@".
    if any(character.isspace() or _is_refused(character) for character in canonical):
        raise IdentifierError("the e-mail holds white space or an invisible character")
    local, at, domain = canonical.partition("@")
    if not (local and at and domain) or "@" in domain:
        raise IdentifierError('the e-mail needs exactly one "@" with text on both sides')
    return canonical


def name_problem(text: str) -> str | None:
    """What is wrong with a display name of a person or client; None when it may be used."""
    if not text.strip():
        return "the name is empty"
    if len(text) > NAME_MAX_LENGTH:
        return f"the name is longer than {NAME_MAX_LENGTH} characters"
    # Joiners and marks of direction stay: names in several scripts need them.
    if any(unicodedata.category(c) in {"Cc", "Cs", "Cn", "Zl", "Zp"} for c in text):
        return "the name holds a control or unassigned character"
    return None


def client_id_problem(text: str) -> str | None:
    """What is wrong with a client id. One form, so that it needs no escaping in URLs and logs."""
    if not _CLIENT_ID.fullmatch(text):
        return (
            "the client id must be 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -"
            " and begin with a letter or digit"
        )
    if text.lower().startswith(USER_ID_PREFIX):
        # `sub` of a machine token is the client id: it must never read as a user's.
        return f'the client id must not start with "{USER_ID_PREFIX}", which marks user ids'
    return None


def scope_token_problem(text: str) -> str | None:
    """What is wrong with one scope value (RFC 6749 §3.3)."""
    if not _SCOPE_TOKEN.fullmatch(text):
        return (
            "a scope must be 1 to 128 printable ASCII characters without space, quote or backslash"
        )
    return None


def roles_problems(roles: Iterable[str]) -> list[str]:
    """What is wrong with the roles of a user (RFC 9068 §2.2.3.1): words that need no escaping
    in a token, a header or a policy, and not so many that they outgrow one."""
    listed = tuple(roles)
    problems = []
    if len(listed) > MAX_ROLES:
        problems.append(f"a user may have at most {MAX_ROLES} roles")
    if not all(_ROLE.fullmatch(role) for role in listed):
        problems.append(
            "a role must be 1 to 64 characters out of A-Z a-z 0-9 . _ : / - and begin with a"
            " letter or digit"
        )
    return problems


def audience_problem(text: str) -> str | None:
    """What is wrong with an audience: `resource` must be an absolute URI (RFC 8707 §2)."""
    if "#" in text:
        return "an audience must not have a fragment (RFC 8707 §2)"
    if len(text) > URI_MAX_LENGTH:
        return f"an audience must not be longer than {URI_MAX_LENGTH} characters"
    if (
        not _ABSOLUTE_URI.fullmatch(text)
        or (_WEB_SCHEME.match(text) and not _WEB_URI.fullmatch(text))
        or not _has_readable_authority(text)
    ):
        return (
            "an audience must be an absolute URI (RFC 8707 §2),"
            " such as https://orders.example or urn:example:orders"
        )
    return None


def _has_readable_authority(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:  # a bracket without its other half, an address that is none
        return False
    return True


def new_user_id(random: bytes) -> str:
    """`usr_` and 22 characters out of 16 random bytes: never guessed, never used again."""
    return USER_ID_PREFIX + _base64url(random, USER_ID_BYTES)


def new_secret_id(random: bytes) -> str:
    """`cs_` and 16 characters out of 12 random bytes: names a client secret, is none itself."""
    return SECRET_ID_PREFIX + _base64url(random, SECRET_ID_BYTES)


def _base64url(random: bytes, length: int) -> str:
    if len(random) != length:
        raise ValueError(f"an identifier is made of {length} random bytes here")
    return base64.urlsafe_b64encode(random).rstrip(b"=").decode("ascii")


def _is_refused(character: str) -> bool:
    return (
        unicodedata.category(character) in _REFUSED_CATEGORIES
        or _INVISIBLE.match(character) is not None
    )


def _fold(text: str) -> str:
    # Before, since some letters fold only when composed; after, since folding may decompose.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
