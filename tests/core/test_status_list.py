"""Positions in status lists and the encoding of bits (draft-ietf-oauth-status-list-21 §4)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.status_lists import decode_statuses
from token_server.core.status_list import (
    BLOCK_SIZE,
    LIST_SIZE,
    BitArray,
    ListName,
    number_of,
    parse_name,
    parse_uri,
    permute,
    position_of,
)

KEY = bytes(range(32))
ISSUER = "https://auth.example"


def test_independent_decoder_reads_the_vectors_of_the_draft() -> None:
    """§4.1: the examples of one and of two bits; so the decoder may judge our lists."""
    one = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]
    two = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]
    assert decode_statuses(1, "eNrbuRgAAhcBXQ") == one
    assert decode_statuses(2, "eNo76fITAAPfAgc") == two


@given(st.sets(st.integers(0, LIST_SIZE - 1), max_size=50))
def test_list_says_exactly_what_was_set(indexes: set[int]) -> None:
    """§4.1: whatever is revoked, the independent decoder finds those entries and no others."""
    bits = BitArray()
    assert all(bits.set(index) for index in indexes)
    assert not any(bits.set(index) for index in indexes), "set once"
    statuses = decode_statuses(1, bits.compressed())
    assert len(statuses) == LIST_SIZE
    assert {index for index, status in enumerate(statuses) if status} == indexes
    assert all(bits.is_set(index) for index in indexes)


def test_ended_list_has_every_entry_revoked() -> None:
    """After a restored backup: nothing that names such a list is good."""
    assert decode_statuses(1, BitArray(is_full=True).compressed()) == [1] * LIST_SIZE


def test_no_two_entries_of_a_list_share_a_position() -> None:
    """The permutation is one: all 131,072 positions are taken, each once."""
    name = ListName("s", 7)
    taken = {permute(offset, name, KEY) for offset in range(LIST_SIZE)}
    assert taken == set(range(LIST_SIZE))


@given(st.sampled_from(["s", "m"]), st.integers(0, 2**42), st.binary(min_size=32, max_size=32))
def test_position_leads_back_to_the_number(kind: str, number: int, key: bytes) -> None:
    """For any key and list, also far behind a restored backup."""
    assert kind in ("s", "m")
    position = position_of("s" if kind == "s" else "m", number, key)
    assert 0 <= position.index < LIST_SIZE
    assert number_of(position, key) == number


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "s0"), (LIST_SIZE - 1, "s0"), (LIST_SIZE, "s1"), (2 * LIST_SIZE - 1, "s1")],
)
def test_list_changes_at_131072(number: int, name: str) -> None:
    """The first and last number of a list stand in it, the next one in the next."""
    assert str(position_of("s", number, KEY).name) == name


def test_positions_show_no_order() -> None:
    """Neighbours are not neighbours; another list or key puts the same offset elsewhere."""
    indexes = [position_of("s", number, KEY).index for number in range(2000)]
    steps = {later - earlier for earlier, later in itertools.pairwise(indexes)}
    assert len(steps) > 1900
    assert abs(sum(indexes) / 2000 - LIST_SIZE / 2) < LIST_SIZE / 20
    others = [position_of("m", number, KEY).index for number in range(2000)]
    others += [position_of("s", number, bytes(32)).index for number in range(2000)]
    others += [position_of("s", LIST_SIZE + number, KEY).index for number in range(2000)]
    assert sum(a == b for a, b in zip(indexes * 3, others, strict=True)) < 10


def test_blocks_fill_lists_without_a_rest() -> None:
    """No block of machine tokens lies in two lists."""
    assert LIST_SIZE % BLOCK_SIZE == 0


@pytest.mark.parametrize("name", [ListName("s", 0), ListName("m", 12), ListName("s", 10**11)])
def test_name_is_read_back(name: ListName) -> None:
    """As it stands in URIs."""
    assert parse_name(str(name)) == name
    assert parse_uri(name.uri(ISSUER), ISSUER) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "x1",
        "S1",
        "s01",
        "s-1",
        "s1 ",
        " s1",
        "s1/",
        "s\u0661",
        "s1\n",
        "s" + "9" * 13,
        "1",
    ],
)
def test_anything_else_names_no_list(text: str) -> None:
    """One spelling for each list: caches and verifiers compare bytes."""
    assert parse_name(text) is None


@pytest.mark.parametrize(
    "uri",
    [
        "https://auth.example.evil/oauth2/status-lists/s1",
        "https://auth.example/oauth2/status-lists/s1?x",
        "https://auth.example/oauth2/status-lists/../s1",
        "http://auth.example/oauth2/status-lists/s1",
        "s1",
    ],
)
def test_uri_of_another_place_names_no_list_of_ours(uri: str) -> None:
    """Compared as text: nothing is decoded or resolved."""
    assert parse_uri(uri, ISSUER) is None
