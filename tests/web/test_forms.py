"""Reading a form body strictly, over sockets (security cases D71 to D78; RFC 6749 §3.2, app. B)."""

import socket
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.wire import FORM, assert_refused, form, head
from tests.web.conftest import EdgeServer
from token_server.errors import InvalidRequestError
from token_server.web.forms import MAX_BODY_BYTES, MAX_FIELDS, parse_form

GRANT = ("grant_type", "client_credentials")


def scope_of(edge: EdgeServer, body: bytes) -> str:
    """The scope that a sound request with these raw bytes behind it is given."""
    answer = edge.machine_token(body=body)
    assert answer.status == 200, answer
    return str(answer.json()["scope"])


@pytest.mark.parametrize(
    "content_types",
    [
        pytest.param([], id="D71_missing"),
        pytest.param([""], id="D71_empty"),
        pytest.param(["application/json"], id="D71_json"),
        pytest.param(["multipart/form-data; boundary=x"], id="D71_multipart"),
        pytest.param(["text/plain"], id="D71_text"),
        pytest.param(["text/html"], id="D71_html"),
        pytest.param([FORM + "; charset=utf-16"], id="D71_utf16"),
        pytest.param([FORM + "; charset=utf-8; charset=utf-16"], id="D71_two_charsets"),
        pytest.param([FORM + "; charset=iso-8859-1"], id="D71_latin1"),
        pytest.param([FORM + "; boundary=x"], id="D71_parameter"),
        pytest.param([FORM + "x"], id="D71_longer"),
        pytest.param([FORM + ", text/plain"], id="D71_list"),
        pytest.param([FORM, FORM], id="D71_repeated_same"),
        pytest.param([FORM, "application/json"], id="D71_repeated_other"),
        pytest.param(["\xff\xfe"], id="D71_not_ascii"),
    ],
)
def test_other_media_type_is_refused_before_the_body_is_read(
    edge: EdgeServer, content_types: list[str]
) -> None:
    """The answer comes although the announced body never does (RFC 6749 §4, appendix B)."""
    lines = [("Host", "auth.example"), ("Content-Length", "50"), edge.authorization]
    lines += [("Content-Type", value) for value in content_types]
    assert_refused(edge.wire.send(head("POST", "/oauth2/token", lines)), 415, "invalid_request")


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param(FORM, id="D71_form"),
        pytest.param(FORM + "; charset=utf-8", id="D71_utf8"),
        pytest.param(FORM + ';CHARSET="UTF-8"', id="D71_utf8_quoted"),
        pytest.param("Application/X-WWW-Form-URLencoded", id="D71_case"),
        pytest.param(FORM + ";", id="D71_empty_parameter"),
    ],
)
def test_form_media_type_is_accepted_however_it_is_spelled(
    edge: EdgeServer, content_type: str
) -> None:
    """Media types are case-insensitive and may name UTF-8 (RFC 9110 §8.3.1)."""
    answer = edge.machine_token(headers=(("Content-Type", content_type),))
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"&grant_type=client_credentials", id="D72_repeated_known_same"),
        pytest.param(b"&grant_type=password", id="D72_repeated_known_other"),
        pytest.param(b"&grant_type=", id="D72_repeated_known_empty"),
        pytest.param(b"&grant_type", id="D72_repeated_known_bare"),
        pytest.param(b"&grant%5Ftype=password", id="D72_repeated_known_encoded"),
        pytest.param(b"&scope=&scope=orders:read", id="D72_repeated_empty_then_set"),
        pytest.param(b"&resource=a:b&resource=c:d", id="D72_repeated_resource"),
        pytest.param(b"&x=1&x=1", id="D72_repeated_unknown_same"),
        pytest.param(b"&x=1&x=2", id="D72_repeated_unknown_other"),
        pytest.param(b"&x=&x=", id="D72_repeated_unknown_empty"),
        pytest.param(b"&x&x", id="D72_repeated_unknown_bare"),
        pytest.param(b"&%78=1&x=1", id="D72_repeated_unknown_encoded"),
    ],
)
def test_repeated_parameter_is_refused(edge: EdgeServer, body: bytes) -> None:
    """Parameters MUST NOT be included more than once (RFC 6749 §3.2)."""
    assert_refused(edge.machine_token(body=body), 400, "invalid_request")


def test_empty_fields_cannot_hide_a_repeated_parameter(edge: EdgeServer) -> None:
    """D72: the field behind any number of separators is still a field of its own."""
    for count in range(MAX_FIELDS - 4, MAX_FIELDS + 4):
        body = b"&" * count + b"scope=orders:read&scope=orders:write"
        assert_refused(edge.machine_token(body=body), 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"&scope=", id="D73_scope"),
        pytest.param(b"&scope", id="D73_scope_bare"),
        pytest.param(b"&resource=", id="D73_resource"),
        pytest.param(b"&client_id=", id="D73_client_id"),
        pytest.param(b"&client_secret=", id="D73_client_secret"),
        pytest.param(b"&client_assertion=", id="D73_client_assertion"),
        pytest.param(b"&foo=bar&username=x&code=y", id="D74_unknown"),
        pytest.param(b"&foo=", id="D74_unknown_empty"),
        pytest.param(b"&%C3%BCnknown=%F0%9F%98%80", id="D74_unknown_unicode"),
        pytest.param(b"&&&", id="D74_empty_fields"),
        pytest.param(b"&amp;scope=orders:read", id="D78_html_entity"),
        pytest.param(b"&x=;scope=orders:read", id="D78_semicolon"),
    ],
)
def test_empty_and_unknown_parameters_are_as_if_left_out(edge: EdgeServer, body: bytes) -> None:
    """RFC 6749 §3.2; the request stays sound and is given the default scope."""
    assert scope_of(edge, body) == "orders:read orders:write"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        pytest.param(b"grant_type=", 400, "invalid_request", id="D73_grant_type"),
        pytest.param(
            b"grant_type=client_credentials;x=y", 400, "unsupported_grant_type", id="D78_semicolon"
        ),
        pytest.param(
            b"grant_type=client_credentials+", 400, "unsupported_grant_type", id="D78_space"
        ),
        pytest.param(b"", 400, "invalid_request", id="D79_empty_body"),
        pytest.param(b"{}", 400, "invalid_request", id="D71_json_body"),
        pytest.param(
            b"grant_type=x=client_credentials", 400, "unsupported_grant_type", id="equals"
        ),
    ],
)
def test_nothing_is_repaired(edge: EdgeServer, body: bytes, status: int, error: str) -> None:
    """An empty, cut or differently separated value never turns into a grant (RFC 6749 §3.2)."""
    assert_refused(edge.wire.post(body, [edge.authorization]), status, error)


@pytest.mark.parametrize(
    "raw",
    [b"orders:read+orders:write", b"orders:read%20orders:write", b"orders%3aread+orders%3Awrite"],
)
def test_plus_and_percent_20_both_mean_a_space(edge: EdgeServer, raw: bytes) -> None:
    """D78, by the WHATWG's rules for forms."""
    assert scope_of(edge, b"&scope=" + raw) == "orders:read orders:write"


MALFORMED = {
    "percent_alone": b"%",
    "percent_one_digit": b"%2",
    "percent_no_digits": b"%zz",
    "percent_unicode": b"%u0041",
    "raw_ff": b"\xff",
    "raw_utf8": "\u00e9".encode(),
    "encoded_ff": b"%FF",
    "overlong": b"%C0%AF",
    "overlong_nul": b"%C0%80",
    "surrogate": b"%ED%A0%80",
    "beyond_unicode": b"%F4%90%80%80",
    "cut_sequence": b"%E2%82",
    "encoded_nul": b"%00",
    "raw_nul": b"\x00",
    "encoded_crlf": b"%0d%0a",
    "raw_crlf": b"\r\n",
    "encoded_tab": b"%09",
    "encoded_delete": b"%7f",
}


@pytest.mark.parametrize("field", [b"&x=%s", b"&scope=a%s", b"&%s=1", b"&y%s"])
@pytest.mark.parametrize("raw", MALFORMED.values(), ids=[f"D77_{name}" for name in MALFORMED])
def test_malformed_encoding_is_refused(edge: EdgeServer, raw: bytes, field: bytes) -> None:
    """Bad percent signs, bad UTF-8 and control characters, in names and values: no U+FFFD."""
    assert_refused(edge.machine_token(body=field % raw), 400, "invalid_request")


def filled(total: int) -> bytes:
    """A sound body of exactly so many bytes."""
    start = form(GRANT) + b"&x="
    return start + b"a" * (total - len(start))


def test_body_at_the_cap_is_read(edge: EdgeServer) -> None:
    """D76: the cap itself is allowed."""
    answer = edge.wire.post(filled(MAX_BODY_BYTES), [edge.authorization])
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    ("length", "body"),
    [
        pytest.param(str(MAX_BODY_BYTES + 1), filled(MAX_BODY_BYTES + 1), id="D76_one_over"),
        pytest.param(str(MAX_BODY_BYTES + 1), b"", id="D76_announced_only"),
        pytest.param("1000000000000", b"", id="D76_terabyte"),
        pytest.param("9" * 18, b"", id="D76_huge_number"),
    ],
)
def test_announced_length_over_the_cap_is_refused(
    edge: EdgeServer, length: str, body: bytes
) -> None:
    """413 before the body has come (RFC 9110 §15.5.14)."""
    lines = [("Host", "auth.example"), ("Content-Type", FORM), ("Content-Length", length)]
    answer = edge.wire.send(head("POST", "/oauth2/token", [*lines, edge.authorization]), body)
    assert_refused(answer, 413, "invalid_request")


def test_refused_length_is_not_invited_to_continue(edge: EdgeServer) -> None:
    """D76: `Expect: 100-continue` gets the refusal, not "go on" (RFC 9110 §10.1.1)."""
    lines = [("Host", "x"), ("Content-Type", FORM), ("Content-Length", "99999")]
    request = head("POST", "/oauth2/token", [*lines, ("Expect", "100-continue")])
    assert_refused(edge.wire.send(request), 413, "invalid_request")


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def test_chunked_body_is_bounded_by_what_comes(edge: EdgeServer) -> None:
    """D76: without a length the answer comes after 16 KiB, while the client is still sending."""
    lines = [("Host", "x"), ("Content-Type", FORM), ("Transfer-Encoding", "chunked")]
    request = head("POST", "/oauth2/token", [*lines, edge.authorization])
    unfinished = chunked(form(GRANT), *[b"a" * 1024] * 17)
    assert_refused(edge.wire.send(request, unfinished), 413, "invalid_request")


def test_chunked_body_is_read(edge: EdgeServer) -> None:
    """Chunks may part a field anywhere (RFC 9112 §7.1)."""
    lines = [("Host", "x"), ("Content-Type", FORM), ("Transfer-Encoding", "chunked")]
    request = head("POST", "/oauth2/token", [*lines, edge.authorization])
    body = form(GRANT)
    answer = edge.wire.send(request, chunked(body[:3], body[3:13], body[13:]), b"0\r\n\r\n")
    assert answer.status == 200, answer


def test_length_shorter_than_the_body_reads_only_the_length(edge: EdgeServer) -> None:
    """D76: what follows is junk where a request should be; it never becomes part of the first."""
    body = form(GRANT)
    lines = [("Host", "x"), ("Content-Type", FORM), ("Content-Length", str(len(body)))]
    request = head("POST", "/oauth2/token", [*lines, edge.authorization])
    answer = edge.wire.send(request, body + b"&scope=admin")
    # httptools refuses both when the junk comes in one piece with the first request.
    assert answer.status == 400 or answer.json()["scope"] == "orders:read orders:write"


def test_length_longer_than_the_body_leaves_the_server_alive(edge: EdgeServer) -> None:
    """D76: a client that goes away in the middle of its body gets no token and hurts nobody."""
    lines = [("Host", "x"), ("Content-Type", FORM), ("Content-Length", "500")]
    with socket.create_connection((edge.wire.host, edge.wire.port)) as connection:
        connection.sendall(
            head("POST", "/oauth2/token", [*lines, edge.authorization]) + form(GRANT)
        )
    assert edge.machine_token().status == 200


@pytest.mark.parametrize("lengths", [("5", "6"), ("-1",), ("+5",), ("0x10",), ("5, 6",)])
def test_unclear_length_is_refused(edge: EdgeServer, lengths: tuple[str, ...]) -> None:
    """D76: no guess at where the body ends (RFC 9112 §6.3); uvicorn answers most by itself."""
    lines = [("Host", "x"), ("Content-Type", FORM), edge.authorization]
    lines += [("Content-Length", length) for length in lengths]
    answer = edge.wire.send(head("POST", "/oauth2/token", lines))
    assert answer.status == 400, answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"".join(b"&p%d=1" % i for i in range(1000)), id="D76_1000_fields"),
        pytest.param(b"".join(b"&p%d=1" % i for i in range(32)), id="D76_33_fields"),
        pytest.param(b"&" * 1000, id="D76_1000_separators"),
        pytest.param(b"&" + b"n" * 129 + b"=1", id="D76_long_name"),
        pytest.param(b"&=1", id="D76_nameless"),
        pytest.param(b"&=", id="D76_only_equals"),
    ],
)
def test_too_many_fields_and_strange_names_are_refused(edge: EdgeServer, body: bytes) -> None:
    """Parsing is bounded in count and in the length of names (ASVS 15.2.2)."""
    assert_refused(edge.machine_token(body=body), 400, "invalid_request")


def test_megabyte_name_is_refused(edge: EdgeServer) -> None:
    """D76: by the cap on the body."""
    answer = edge.machine_token(body=b"&" + b"n" * 1_000_000 + b"=1")
    assert_refused(answer, 413, "invalid_request")


def test_most_fields_allowed_are_read(edge: EdgeServer) -> None:
    """D76: 32 parameters pass, grant_type included."""
    assert scope_of(edge, b"".join(b"&p%d=1" % i for i in range(MAX_FIELDS - 1)))


texts = st.text(
    st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters="\x7f"),
    min_size=1,
    max_size=20,
)


@given(st.dictionaries(texts, texts, max_size=MAX_FIELDS))
def test_what_a_sound_client_encodes_is_what_is_read(parameters: dict[str, str]) -> None:
    """Any text without control characters survives its encoding (RFC 6749 appendix B)."""
    assert parse_form(urlencode(parameters).encode()) == parameters


@given(st.binary(max_size=200) | st.text("&=%+ab0;\x00", max_size=80).map(str.encode))
@example(b"&" * 33 + b"a=1&a=2")
def test_bytes_are_refused_or_read_as_everyone_reads_them(body: bytes) -> None:
    """Never another exception, and never a reading that the standard library does not share."""
    try:
        read = parse_form(body)
    except InvalidRequestError:
        return
    pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=False)
    assert len({name for name, _ in pairs}) == len(pairs)
    assert read == {name: value for name, value in pairs if value}
