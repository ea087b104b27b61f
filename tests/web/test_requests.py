"""From where a request comes: TRUSTED_PROXIES and forwarded headers (security case F112)."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.config import IPNetwork
from token_server.web.requests import client_address, header_values

PROXIES = ("10.0.0.0/8", "fd00::/8", "192.0.2.10/32")


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def address(peer: str | None, forwarded: list[str], trusted: tuple[str, ...] = PROXIES) -> Any:
    scope: Any = {
        "type": "http",
        "client": None if peer is None else (peer, 4711),
        "headers": [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded],
    }
    return client_address(scope, networks(*trusted))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        pytest.param("203.0.113.9", [], "203.0.113.9", id="F112_no_header"),
        pytest.param("203.0.113.9", ["198.51.100.1"], "203.0.113.9", id="F112_untrusted_peer"),
        pytest.param("203.0.113.9", ["10.0.0.1"], "203.0.113.9", id="F112_untrusted_says_trusted"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="F112_trusted_without_header"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="F112_one_hop"),
        pytest.param(
            "10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1", id="F112_left_is_made_up"
        ),
        pytest.param(
            "10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1", id="F112_two_headers"
        ),
        pytest.param(
            "10.0.0.1",
            ["1.1.1.1, 198.51.100.1, 10.1.1.1,192.0.2.10"],
            "198.51.100.1",
            id="F112_right_most_untrusted",
        ),
        pytest.param("10.0.0.1", ["10.0.0.7, 10.0.0.8"], "10.0.0.7", id="F112_all_trusted"),
        pytest.param("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1", id="F112_junk_last"),
        pytest.param("10.0.0.1", ["nonsense, 198.51.100.1"], "198.51.100.1", id="F112_junk_first"),
        pytest.param("10.0.0.1", ["198.51.100.1, "], "10.0.0.1", id="F112_empty_last"),
        pytest.param("10.0.0.1", [""], "10.0.0.1", id="F112_empty"),
        pytest.param("10.0.0.1", ["198.51.100.1:443"], "10.0.0.1", id="F112_with_port"),
        pytest.param("10.0.0.1", ["unknown"], "10.0.0.1", id="F112_unknown"),
        pytest.param("10.0.0.1", ["0x7f.1"], "10.0.0.1", id="F112_odd_notation"),
        pytest.param("10.0.0.1", ["2130706433"], "10.0.0.1", id="F112_integer"),
        pytest.param("10.0.0.1", ["\xff"], "10.0.0.1", id="F112_binary"),
        pytest.param("fd00::1", ["2001:db8::1"], "2001:db8::1", id="F112_ipv6"),
        pytest.param("fd00::1", ["2001:0DB8:0:0::1"], "2001:db8::1", id="F112_ipv6_one_form"),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="F112_mapped_peer"),
        pytest.param("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1", id="F112_mapped_hop"),
        pytest.param("10.0.0.1", ["fe80::1%<script>"], "fe80::1", id="F112_zone_is_dropped"),
        pytest.param("fe80::1%eth0", [], "fe80::1", id="F112_zone_of_the_peer"),
        pytest.param("/run/proxy.sock", ["198.51.100.1"], None, id="F112_unix_socket"),
        pytest.param(None, ["198.51.100.1"], None, id="F112_no_peer"),
    ],
)
def test_address_is_the_right_most_untrusted_hop(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    """What was written left of the first stranger may be made up (ASVS 4.1.3, 15.3.4)."""
    assert address(peer, forwarded) == expected


def test_forwarded_headers_do_not_count_without_trusted_proxies() -> None:
    """The default: the peer, and nothing else."""
    assert address("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


@pytest.mark.parametrize(
    "name", [b"x-real-ip", b"forwarded", b"cf-connecting-ip", b"true-client-ip"]
)
def test_other_forwarded_headers_do_not_count(name: bytes) -> None:
    """F112: one header is trusted, since a proxy that sets one passes the others through."""
    scope: Any = {"client": ("10.0.0.1", 1), "headers": [(name, b"198.51.100.1")]}
    assert client_address(scope, networks(*PROXIES)) == "10.0.0.1"


def test_hops_are_bounded() -> None:
    """A header of thousands of trusted hops is not walked to its end."""
    hops = ", ".join(["198.51.100.1", *["10.0.0.2"] * 5000])
    assert address("10.0.0.1", [hops]) == "10.0.0.2"


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=4))
def test_address_is_always_an_address(forwarded: list[str]) -> None:
    """Whatever the header holds, the audit trail gets a canonical address."""
    found = address("10.0.0.1", forwarded)
    assert str(ipaddress.ip_address(found)) == found
    assert "%" not in found


@given(st.binary(max_size=50))
def test_header_values_are_read_byte_for_byte(value: bytes) -> None:
    """No header fails to decode, and none is mended."""
    scope: Any = {"headers": [(b"a", value), (b"b", b"x"), (b"a", b"2")]}
    assert header_values(scope, b"a") == [value.decode("latin-1"), "2"]
