"""Which URLs keys may be fetched from, and where an issuer publishes its metadata.

https, or http on a loopback host for development; nothing else (RFC 8414 2, RFC 9700 4.4). Judges
the text that the operator or the issuer's metadata gives; resolves and fetches nothing.
"""

import re
from urllib.parse import SplitResult, urlsplit

_WELL_KNOWN = "/.well-known/oauth-authorization-server"
_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986 2, without the ones that need escaping
_LOOPBACK = re.compile(r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1")


def check_url(url: str, name: str) -> SplitResult:
    """The parts of a URL that may be fetched; ValueError, in terms of `name`, for any other."""
    if _CHARACTERS.fullmatch(url) is None:
        raise ValueError(f"{name} is not a URL")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{name} is not a URL") from None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"{name} must be an https URL")
    if "@" in parts.netloc:
        raise ValueError(f"{name} must not hold a user name or password")
    if "#" in url:
        raise ValueError(f"{name} must not have a fragment")
    if parts.scheme == "http" and not is_loopback(parts):
        raise ValueError(f"{name} must be https; http is for loopback addresses only")
    return parts


def is_loopback(parts: SplitResult) -> bool:
    """Whether the host, as it is written, is this machine."""
    return _LOOPBACK.fullmatch(parts.hostname or "") is not None


def check_issuer(issuer: str) -> SplitResult:
    """The parts of an issuer identifier (RFC 8414 2); ValueError when it is none."""
    parts = check_url(issuer, "issuer")
    if "?" in issuer:
        raise ValueError("issuer must not have a query")
    return parts


def metadata_url(issuer: str) -> str:
    """RFC 8414 3.1: the well-known part goes between host and path."""
    parts = check_issuer(issuer)
    return f"{parts.scheme}://{parts.netloc}{_WELL_KNOWN}{parts.path.rstrip('/')}"
