"""The reader of JSON bodies by itself: whatever comes, a struct or a ProblemError."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from token_server.errors import InvalidFieldError, MalformedJsonError, ProblemError
from token_server.web.json_body import convert_json
from token_server.web.schemas import (
    ChangePasswordBody,
    EndSessionsBody,
    LoginBody,
    RefreshBody,
    RegisterBody,
)

BODIES = (RegisterBody, LoginBody, RefreshBody, ChangePasswordBody, EndSessionsBody)
NAMES = ("email", "password", "name", "label", "refresh_token", "refresh_token_in")

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = scalars | st.lists(scalars, max_size=2)
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), values, max_size=6)


@settings(deadline=None)  # a busy machine is no failure
@given(body=st.binary() | objects.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No other exception leaves, and no text of a refusal repeats what was sent."""
    for kind in BODIES:
        refusal = refusal_of(body, kind)
        match refusal:
            case None:
                pass
            case InvalidFieldError(field=field, detail=detail):
                assert field in (None, *kind.__struct_fields__)
                assert detail.startswith(("The member is ", "The body has a member "))
            case _:
                assert isinstance(refusal, MalformedJsonError)
                assert str(refusal).isidentifier()


def refusal_of(body: bytes, kind: type[msgspec.Struct]) -> ProblemError | None:
    try:
        convert_json(body, kind)
    except ProblemError as error:
        return error
    return None


def test_good_body_is_read_as_it_is() -> None:
    """Escapes are characters, spaces around the object and within it are nothing."""
    body = b' {"email": "ada@example.org", "password": "\\u0061 \\n", "label": null} '
    read = convert_json(body, LoginBody)
    assert read == LoginBody(email="ada@example.org", password="a \n")
    assert convert_json(b"{}", EndSessionsBody) == EndSessionsBody()


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_do_not_print(kind: type[LoginBody]) -> None:
    """A traceback that shows its locals shows no password."""
    required = {"email": "ada@example.org", "password": "hunter2hunter2", "name": "Ada"}
    required |= {"current_password": "hunter2hunter2", "new_password": "hunter2hunter2"}
    members = {name: required[name] for name in kind.__struct_fields__ if name in required}
    read = convert_json(json.dumps(members).encode(), kind)
    assert repr(read) == str(read) == f"{kind.__name__}(***)"
