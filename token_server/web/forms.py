"""Reading an OAuth form body, strictly (RFC 6749 §3.2, appendix B).

Nothing is repaired: two readings of one request are how requests are smuggled past checks.
Litestar's own form parser is not used: it caches raw bodies (passwords!) and mends bad UTF-8.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from litestar.types import Receive

from token_server.errors import (
    InvalidRequestError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)

MAX_BODY_BYTES = 16 * 1024
MAX_FIELDS = 32
_MAX_NAME_LENGTH = 128
_MEDIA_TYPE = "application/x-www-form-urlencoded"
# Printable ASCII and the space; a percent sign only before two hexadecimal digits.
_ENCODED = re.compile(rb"(?:[\x20-\x24\x26-\x7E]|%[0-9A-Fa-f]{2})*")
# Encodes itself: nearly all components do.
_VERBATIM = re.compile(rb"[\x20-\x24\x26-\x2A\x2C-\x7E]*")
_CONTROL = re.compile(r"[\x00-\x1F\x7F]")


def check_form_media_type(content_types: Sequence[str]) -> None:
    """Exactly one Content-Type, the form one, in UTF-8 if it says so; before the body is read."""
    if len(content_types) == 1 and content_types[0] == _MEDIA_TYPE:
        return  # as nearly everybody writes it
    if len(content_types) != 1:
        raise UnsupportedMediaTypeError("content_type_missing_or_repeated")
    media_type, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    if media_type != _MEDIA_TYPE:
        raise UnsupportedMediaTypeError("content_type_not_form")
    for parameter in parameters:
        if parameter not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise UnsupportedMediaTypeError("content_type_parameter")


async def read_body(receive: Receive, content_lengths: Sequence[str]) -> bytes:
    """The whole body, never more than MAX_BODY_BYTES of it in memory.

    Raises RequestTooLargeError by the announced length before anything is read, and by the
    bytes that really came; InvalidRequestError when the client goes away half-way.
    """
    for length in content_lengths:
        if not (length.isascii() and length.isdigit()):
            raise InvalidRequestError("content_length_malformed")
        if len(length) > 10 or int(length) > MAX_BODY_BYTES:
            raise RequestTooLargeError("content_length_too_large")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequestError("client_disconnected")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLargeError("body_too_large")
        if not message.get("more_body", False):
            return bytes(body)


def parse_form(body: bytes) -> dict[str, str]:
    """The parameters by name; one sent without a value is as if left out (RFC 6749 §3.2).

    Raises InvalidRequestError for any repeated name (known or not, empty or not), bad percent
    encoding, bad UTF-8 and control characters.
    """
    if body.count(b"&") >= MAX_FIELDS:
        raise InvalidRequestError("too_many_parameters", "There are too many parameters.")
    fields = [field for field in body.split(b"&") if field]
    names: set[str] = set()
    parameters: dict[str, str] = {}
    for field in fields:
        raw_name, _, raw_value = field.partition(b"=")
        name, value = decode_component(raw_name), decode_component(raw_value)
        if not name or len(name) > _MAX_NAME_LENGTH:
            raise InvalidRequestError("parameter_name_malformed")
        if name in names:
            raise InvalidRequestError("parameter_repeated", "A parameter was sent more than once.")
        names.add(name)
        if value:
            parameters[name] = value
    return parameters


def decode_component(raw: bytes) -> str:
    """A name or value as a form or a query encodes it; InvalidRequestError for any other text."""
    if _VERBATIM.fullmatch(raw) is not None:
        return raw.decode("ascii")
    if _ENCODED.fullmatch(raw) is None:
        raise InvalidRequestError("form_encoding_malformed", "The form encoding is malformed.")
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError("form_not_utf8", "A parameter is not valid UTF-8.") from None
    if _CONTROL.search(text):
        raise InvalidRequestError("control_character", "A parameter contains a control character.")
    return text
