"""Compact form, base64url and JSON of a token: group A of the attack cases, lines on form."""

import tracemalloc
from typing import cast

import pytest

from tests.verify import forge
from token_server.verify import Policy, Reason, TokenError, decode_unverified

ROOMY = Policy(max_token_bytes=2**20)


def test_good_token_is_accepted() -> None:
    """RFC 9068 4: without this, every refusal below would prove nothing."""
    claims = forge.verifier().verify_sync(forge.token())

    assert claims.subject == "usr_7vY0cQ2mS8dK4pL1xW3nZa"
    assert claims.scopes == ("orders:read", "orders:write")


async def test_async_verify_gives_the_same_claims() -> None:
    """The coroutine is the same decision as the plain call."""
    token = forge.token()

    assert await forge.verifier().verify(token) == forge.verifier().verify_sync(token)


@pytest.mark.parametrize("space", [b" ", b"\t", b"\r\n", b"\n"], ids=["space", "tab", "crlf", "lf"])
def test_white_space_around_json_is_accepted(space: bytes) -> None:
    """RFC 8259 2 allows it inside header and claims (Wycheproof 376, 377)."""
    header = space + forge.compact_json(forge.header()) + space
    payload = space + forge.compact_json(forge.claims()) + space

    assert forge.verifier().verify_sync(forge.seal_bytes(header, payload)).issued_at == forge.NOW


DOTS = {
    "A29_no_dot": (0, Reason.MALFORMED),
    "A29_one_dot": (1, Reason.MALFORMED),
    "A29_two_dots_and_nothing": (2, Reason.NOT_JSON),
    "A29_four_dots": (4, Reason.MALFORMED),
    "A29_five_dots": (5, Reason.MALFORMED),
    "A29_10000_dots": (10_000, Reason.MALFORMED),
    "A29_1000000_dots": (1_000_000, Reason.TOO_LARGE),
}


@pytest.mark.parametrize(("count", "reason"), DOTS.values(), ids=DOTS)
def test_wrong_number_of_parts_is_refused(count: int, reason: Reason) -> None:
    """RFC 7515 7.1: exactly three parts."""
    assert forge.refusal("." * count) == reason


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5], ids=lambda n: f"A29_{n}_dots_of_a_good_token")
def test_good_token_with_parts_missing_or_added_is_refused(count: int) -> None:
    """RFC 7515 7.1: a signed prefix does not carry a tail."""
    parts = [*forge.token().split("."), "e30", "e30", "e30"]

    assert forge.refusal(".".join(parts[: count + 1])) == Reason.MALFORMED


def test_a_million_dots_take_no_memory() -> None:
    """CVE-2025-30204: the split is bounded, so memory stays at a few copies of the input."""
    text, verifier = "." * 1_000_000, forge.verifier(policy=ROOMY)
    tracemalloc.start()
    try:
        with pytest.raises(TokenError) as decoded:
            verifier.verify_sync(text)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert decoded.value.reason == Reason.MALFORMED
    assert peak_bytes < 4_000_000


def test_token_at_the_size_cap_is_read_and_one_beyond_is_not() -> None:
    """The cap is checked before anything is decoded."""
    token = forge.token()

    at_cap = Policy(max_token_bytes=len(token))
    assert forge.verifier(policy=at_cap).verify_sync(token).client_id == "web-shop"
    below = Policy(max_token_bytes=len(token) - 1)
    assert forge.refusal(token, policy=below) == Reason.TOO_LARGE


@pytest.mark.parametrize("value", [None, b"a.b.c", 1, [], bytearray(b"a.b.c")], ids=repr)
def test_what_is_not_text_is_refused(value: object) -> None:
    """A caller's wrong type is a refused token, not a traceback."""
    assert forge.refusal(cast("str", value)) == Reason.NOT_TEXT


def test_oversized_header_is_refused_before_the_signature() -> None:
    """What a stranger can make us parse unsigned is bounded."""
    assert forge.refusal(forge.token(header_changes={"x": "y" * 2000})) == Reason.TOO_LARGE


PADDED = {
    f"A27_{count}_equals_signs_on_{part}": (index, "=" * count)
    for index, part in enumerate(("header", "payload", "signature"))
    for count in (1, 2, 4)
}
INSERTED = {
    "A28_space": " ",
    "A28_four_spaces": "    ",  # a whole group: a decoder that skips finds nothing missing
    "A28_four_question_marks": "????",
    "A28_cr": "\r",
    "A28_lf": "\n",
    "A28_tab": "\t",
    "A28_nul": "\0",
    "A28_vertical_tab": "\v",
    "A28_plus": "+",
    "A28_slash": "/",
    "A28_question_mark": "?",
    "A28_hash": "#",
    "A28_percent_encoding": "%41",
    "A28_hyphen_u2010": "\u2010",
    "A28_full_width_a": "\uff21",
}
PLACES = ("before", "inside", "after")
FOREIGN = {
    f"{name}_{place}_{part}": (index, text, place)
    for name, text in INSERTED.items()
    for index, part in enumerate(("header", "payload", "signature"))
    for place in PLACES
}


def with_part_changed(index: int, text: str, place: str) -> str:
    """A token with `text` put into one part; header and payload are signed as changed."""
    segments = forge.token().split(".")
    segment = segments[index]
    at = {"before": 0, "inside": len(segment) // 2, "after": len(segment)}[place]
    segments[index] = segment[:at] + text + segment[at:]
    if index == 2:
        return ".".join(segments)
    return forge.seal(segments[0], segments[1])


@pytest.mark.parametrize(("index", "text"), PADDED.values(), ids=PADDED)
def test_padding_is_refused(index: int, text: str) -> None:
    """RFC 7515 2: base64url with all trailing `=` left out (GHSA-hxm8-2xgr-2p9m)."""
    assert forge.refusal(with_part_changed(index, text, "after")) == Reason.MALFORMED


@pytest.mark.parametrize(("index", "text", "place"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_character_is_refused(index: int, text: str, place: str) -> None:
    """RFC 7515 2, RFC 4648 3.5: nothing is skipped, wherever it stands (Wycheproof 360 to 371)."""
    assert forge.refusal(with_part_changed(index, text, place)) == Reason.MALFORMED


@pytest.mark.parametrize("text", [" ", "\r\n", "\0"], ids=["A28_space", "A28_crlf", "A28_nul"])
def test_character_around_the_whole_token_is_refused(text: str) -> None:
    """Trimming is the HTTP layer's business; the verifier repairs nothing."""
    token = forge.token()

    assert forge.refusal(text + token) == Reason.MALFORMED
    assert forge.refusal(token + text) == Reason.MALFORMED


@pytest.mark.parametrize("size", [1, 2], ids=["A28_unused_bits_of_1_octet", "A28_of_2_octets"])
@pytest.mark.parametrize("index", [0, 1], ids=["header", "payload"])
def test_unused_bits_are_refused(size: int, index: int) -> None:
    """RFC 4648 3.5: only zero bits at the end (Wycheproof 374, 375)."""
    parts = [forge.compact_json(forge.header()), forge.compact_json(forge.claims())]
    parts[index] += b" " * ((size - len(parts[index])) % 3)
    segments = [forge.b64(part) for part in parts]
    assert len(segments[index]) % 4 == size + 1
    last = segments[index][-1]
    segments[index] = segments[index][:-1] + chr(ord(last) + 1)

    assert forge.refusal(forge.seal(*segments)) == Reason.MALFORMED


def test_unused_bits_of_the_signature_are_refused() -> None:
    """RFC 4648 3.5, A28: one signature has one text, so a token cannot be renamed."""
    token = forge.token()
    sibling = token[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[token[-1]]

    assert forge.refusal(sibling) == Reason.MALFORMED


JSON_SERIALISED = {
    "A26_general": '{"payload":"P","signatures":[{"protected":"H","signature":"S"}]}',
    "A26_flattened": '{"protected":"H","payload":"P","signature":"S"}',
    "A26_with_dots_outside": '{"x":"a.P.S","protected":"H"}',
}


@pytest.mark.parametrize("shape", JSON_SERIALISED.values(), ids=JSON_SERIALISED)
def test_json_serialised_jws_is_refused(shape: str) -> None:
    """RFC 8725 (revision) 3.14: the compact form only."""
    header, payload, signature = forge.token().split(".")
    text = shape.replace('"H"', f'"{header}"').replace('"P"', f'"{payload}"')
    text = text.replace('"S"', f'"{signature}"').replace("a.P.S", f"a.{payload}.{signature}")

    assert forge.refusal(text) == Reason.MALFORMED


JWE_HEADERS: dict[str, dict[str, object]] = {
    "A25_pbes2_p2c": {"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2s": "c2FsdA", "p2c": 2**31},
    "A25_rsa1_5": {"alg": "RSA1_5", "enc": "A128CBC-HS256"},
    "A25_deflate": {"alg": "RSA-OAEP", "enc": "A128GCM", "zip": "DEF"},
}


@pytest.mark.parametrize("header", JWE_HEADERS.values(), ids=JWE_HEADERS)
def test_jwe_is_refused_by_its_parts(header: dict[str, object]) -> None:
    """RFC 7516 7.1: five parts are refused before any of them is decoded (CVE-2026-27932)."""
    segment = forge.b64(forge.compact_json(header))

    assert forge.refusal(f"{segment}.a.a.a.a") == Reason.MALFORMED


DEEP = {
    "A31_claims_5000_arrays": (5_000, b"[", b"]", Reason.TOO_DEEP),
    "A31_claims_1000_objects": (1_000, b'{"a":', b"}", Reason.TOO_DEEP),
    "A31_claims_5000_unclosed": (5_000, b"[", b"", Reason.TOO_DEEP),
    "A31_claims_100000_arrays": (100_000, b"[", b"]", Reason.TOO_LARGE),
}


@pytest.mark.parametrize(("depth", "opening", "closing", "reason"), DEEP.values(), ids=DEEP)
def test_deeply_nested_claims_are_refused(
    depth: int, opening: bytes, closing: bytes, reason: Reason
) -> None:
    """GHSA-8wjv-2p76-3863: signed or not, RecursionError never leaves."""
    value = opening * depth + b"0" + closing * depth
    payload = forge.compact_json(forge.claims())[:-1] + b',"deep":' + value + b"}"
    token = forge.seal_bytes(forge.compact_json(forge.header()), payload)

    assert forge.refusal(token) == reason
    assert forge.refusal(token, policy=ROOMY) == Reason.TOO_DEEP


@pytest.mark.parametrize(
    ("depth", "reason"),
    [(100, Reason.TOO_DEEP), (5_000, Reason.TOO_LARGE), (100_000, Reason.TOO_LARGE)],
    ids=["A31_header_100", "A31_header_5000", "A31_header_100000"],
)
def test_deeply_nested_header_is_refused(depth: int, reason: Reason) -> None:
    """GHSA-8wjv-2p76-3863: nobody needs a key to send this one."""
    value = b"[" * depth + b"]" * depth
    header = forge.compact_json(forge.header())[:-1] + b',"deep":' + value + b"}"

    assert forge.refusal(forge.seal_bytes(header, b"{}"), policy=ROOMY) == reason


def test_brackets_in_strings_are_not_depth() -> None:
    """The bound counts nesting, not characters: a claim may well hold brackets."""
    text = '[{"\\' * 200
    token = forge.token(note=text, flat=[[] for _ in range(100)])

    assert forge.verifier().verify_sync(token).extra["note"] == text


GOOD_CLAIMS = forge.compact_json(forge.claims())
ENCODINGS = {
    "A33_bom": b"\xef\xbb\xbf" + GOOD_CLAIMS,
    "A33_utf_16": GOOD_CLAIMS.decode().encode("utf-16"),
    "A33_utf_16_le": GOOD_CLAIMS.decode().encode("utf-16-le"),
    "A33_utf_32": GOOD_CLAIMS.decode().encode("utf-32"),
    "A33_latin_1": GOOD_CLAIMS[:-1] + b',"name":"Zo\xeb"}',
    "A33_invalid_utf_8": GOOD_CLAIMS[:-1] + b',"name":"\xff"}',
    "A33_overlong_slash": GOOD_CLAIMS[:-1] + b',"name":"\xc0\xaf"}',
    "A33_overlong_nul": GOOD_CLAIMS[:-1] + b',"name":"\xc0\x80"}',
    "A33_encoded_surrogate": GOOD_CLAIMS[:-1] + b',"name":"\xed\xa0\x80"}',
    "A33_lone_high_surrogate": GOOD_CLAIMS[:-1] + b',"name":"\\ud800"}',
    "A33_lone_low_surrogate": GOOD_CLAIMS[:-1] + b',"name":"\\udc00"}',
    "A33_lone_surrogate_as_name": GOOD_CLAIMS[:-1] + b',"\\ud800":1}',
    "A33_lone_surrogate_nested": GOOD_CLAIMS[:-1] + b',"a":[{"b":"\\ud800x"}]}',
    "A33_raw_control_character": GOOD_CLAIMS[:-1] + b',"name":"\x01"}',
    "empty": b"",
    "only_space": b" ",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "truncated": GOOD_CLAIMS[:-1],
    "two_documents": GOOD_CLAIMS + b"{}",
    "trailing_comma": GOOD_CLAIMS[:-1] + b",}",
    "single_quotes": b"{'a':1}",
    "comment": GOOD_CLAIMS + b"//",
    "no_break_space_after": GOOD_CLAIMS + "\u00a0".encode(),
}


@pytest.mark.parametrize("payload", ENCODINGS.values(), ids=ENCODINGS)
def test_claims_that_are_not_strict_json_are_refused(payload: bytes) -> None:
    """RFC 8725 3.7, RFC 7519 7.2: one JSON object in UTF-8, though the signature is right."""
    token = forge.seal_bytes(forge.compact_json(forge.header()), payload)

    assert forge.refusal(token) == Reason.NOT_JSON


@pytest.mark.parametrize("text", ENCODINGS.values(), ids=ENCODINGS)
def test_header_that_is_not_strict_json_is_refused(text: bytes) -> None:
    """RFC 8725 3.7: the same strictness before the signature."""
    header = text.replace(GOOD_CLAIMS[:-1], forge.compact_json(forge.header())[:-1])

    assert forge.refusal(forge.seal_bytes(header, GOOD_CLAIMS)) == Reason.NOT_JSON


def test_paired_surrogate_escapes_are_one_character() -> None:
    """RFC 8259 7: the pair is a real character and stays allowed."""
    payload = GOOD_CLAIMS[:-1] + b',"name":"\\ud83d\\ude00\\\\ud800"}'
    token = forge.seal_bytes(forge.compact_json(forge.header()), payload)

    assert forge.verifier().verify_sync(token).extra["name"] == "\U0001f600\\ud800"


REPEATED = {
    "exp_same_value": f'"exp":{forge.NOW + 900}',
    "exp_later": f'"exp":{forge.NOW + 99999}',
    "aud": '"aud":"https://other.example"',
    "escaped_name": '"\\u0061ud":"https://other.example"',
    "nested": '"extra":{"a":1,"a":1}',
    "deeply_nested": '"extra":[[{"b":{"a":1,"a":2}}]]',
}


@pytest.mark.parametrize("member", REPEATED.values(), ids=REPEATED)
def test_repeated_claim_is_refused(member: str) -> None:
    """RFC 7519 4: two readers must not see two values, at any level."""
    payload = GOOD_CLAIMS[:-1] + b"," + member.encode() + b"}"
    token = forge.seal_bytes(forge.compact_json(forge.header()), payload)

    assert forge.refusal(token) == Reason.MEMBER_REPEATED


@pytest.mark.parametrize("member", ['"alg":"RS256"', '"alg":"none"', '"kid":"x"', '"typ":"JWT"'])
def test_repeated_header_member_is_refused(member: str) -> None:
    """RFC 7515 4: header member names are unique."""
    header = forge.compact_json(forge.header())[:-1] + b"," + member.encode() + b"}"

    assert forge.refusal(forge.seal_bytes(header, GOOD_CLAIMS)) == Reason.MEMBER_REPEATED


def test_unverified_peek_shows_header_and_claims() -> None:
    """`decode_unverified` is for people's eyes: it reads what no key has signed."""
    unsigned = forge.token(key="other", header_changes={"alg": "none"}).rsplit(".", 1)[0] + "."

    header, claims = decode_unverified(unsigned)

    assert (header["alg"], claims["sub"]) == ("none", "usr_7vY0cQ2mS8dK4pL1xW3nZa")


def test_unverified_peek_is_bounded_as_verification_is() -> None:
    """The peek refuses the same malformed texts, with the same error."""
    for text in ("", "a.b", "." * 100_000, "x" * 20_000, forge.token() + "="):
        with pytest.raises(TokenError) as caught:
            decode_unverified(text)
        assert isinstance(caught.value.reason, Reason)


def test_peek_leaves_no_state_behind() -> None:
    """A40, CVE-2026-103001: looking at a forged token does not make it or another one good."""
    forged, verifier = forge.token(key="other"), forge.verifier()
    decode_unverified(forged)

    with pytest.raises(TokenError, match="access token") as caught:
        verifier.verify_sync(forged)
    assert caught.value.args == (Reason.SIGNATURE_WRONG,)
    assert verifier.verify_sync(forge.token()).client_id == "web-shop"
