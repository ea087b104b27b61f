"""Reading a JSON body, strictly: one object, one reading, of a type that is known beforehand.

Repeated members, NaN, lone surrogates, deep nesting and anything but UTF-8 are refused by the
reader that verifies tokens (verify/strict.py); msgspec would take the last of two members.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from litestar.types import HTTPScope, Receive

from token_server.errors import (
    InvalidFieldError,
    InvalidRequestError,
    JsonTooLargeError,
    MalformedJsonError,
    NotJsonError,
    RequestTooLargeError,
)
from token_server.verify.strict import JsonObject, StrictnessError, decode_object
from token_server.web.forms import read_body
from token_server.web.requests import header_values

T = TypeVar("T", bound=msgspec.Struct)

_MEDIA_TYPE = "application/json"
_FIELD = re.compile(r"at `\$\.([a-z_]+)(?:\[[0-9.]+\])?`|field `([a-z_]+)`")


async def read_json(scope: HTTPScope, receive: Receive, kind: type[T]) -> T:
    """The body as a `kind`; ProblemError says what is wrong with it, never what it holds."""
    check_json_media_type(header_values(scope, b"content-type"))
    return convert_json(await _read_bytes(scope, receive), kind)


async def read_optional_json(scope: HTTPScope, receive: Receive, kind: type[T]) -> T:
    """As `read_json`, but no body at all stands for an empty object."""
    content_types = header_values(scope, b"content-type")
    if content_types:
        check_json_media_type(content_types)
    body = await _read_bytes(scope, receive)
    if body and not content_types:
        raise NotJsonError("content_type_missing")
    return convert_json(body or b"{}", kind)


def check_json_media_type(content_types: Sequence[str]) -> None:
    """Exactly one Content-Type, JSON, in UTF-8 if it says so (RFC 8259 §8.1)."""
    if len(content_types) != 1:
        raise NotJsonError("content_type_missing_or_repeated")
    media_type, *parameters = (part.strip().lower() for part in content_types[0].split(";"))
    if media_type != _MEDIA_TYPE:
        raise NotJsonError("content_type_not_json")
    if any(part not in ("", "charset=utf-8", 'charset="utf-8"') for part in parameters):
        raise NotJsonError("content_type_parameter")


def convert_json(body: bytes, kind: type[T]) -> T:
    try:
        members = decode_object(body)
    except StrictnessError as error:
        reason = error.reason
    else:
        return _convert(members, kind)
    raise MalformedJsonError(reason)


def _convert(members: JsonObject, kind: type[T]) -> T:
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if not known.keys() >= members.keys():
        raise InvalidFieldError(None, "The body has a member that is not known here.")
    for name, field in known.items():
        if field.required and name not in members:
            raise InvalidFieldError(name, "The member is missing.")
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
    # The members are flat or lists, and their names are ours by now: the path cannot hold input.
    wrong = (found[1] or found[2]) if found else None
    raise InvalidFieldError(wrong, "The member is of the wrong type, empty or too long.")


async def _read_bytes(scope: HTTPScope, receive: Receive) -> bytes:
    try:
        return await read_body(receive, header_values(scope, b"content-length"))
    except RequestTooLargeError as error:
        raise JsonTooLargeError(error.reason) from None
    except InvalidRequestError as error:
        raise MalformedJsonError(error.reason) from None
