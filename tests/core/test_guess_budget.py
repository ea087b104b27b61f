"""The networks that guesses are counted to, the budgets, and what a process remembers."""

import pytest

from token_server.core.guess_budget import (
    CLIENT_SECRET_BUDGETS,
    NETWORK_BUDGETS,
    PASSWORD_BUDGETS,
    WIDE_NETWORK_BUDGETS,
    Networks,
    RefusedGuesses,
    networks_of,
)
from token_server.core.throttle import Bucket, Budget, Done, Take, decide_take

DAY_S = 86_400


@pytest.mark.parametrize(
    ("ip_address", "expected"),
    [
        ("192.0.2.7", Networks("192.0.2.7")),
        ("192.0.2.8", Networks("192.0.2.8")),
        ("::ffff:192.0.2.7", Networks("192.0.2.7")),
        ("2001:db8:1:2::1", Networks("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("2001:db8:1:2:ffff::", Networks("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("2001:db8:1:3::1", Networks("2001:db8:1:3::/64", "2001:db8:1::/48")),
        ("64:ff9b::192.0.2.7", Networks("192.0.2.7")),
        ("64:ff9b:0:0:0:1::7", Networks("64:ff9b::/64", "64:ff9b::/48")),
        ("2002:c000:207::1", Networks("2002:c000:207::/64", "2002:c000:207::/48")),
        ("::1", Networks("::/64", "::/48")),
        (None, Networks("none")),
    ],
)
def test_network_is_the_address_or_its_prefix(ip_address: str | None, expected: Networks) -> None:
    """IPv4 by address, in every spelling; IPv6 by /64 and /48 (case F113). Behind a translator all
    of IPv4 is one /64, which must not be one guesser (RFC 6052 §2.1)."""
    assert networks_of(ip_address) == expected


def guesses_of_a_day(budgets: tuple[Budget, ...]) -> tuple[int, int]:
    """What a machine gets that tries every second: on the first day, and on the second."""
    buckets = tuple(Bucket(str(number), budget) for number, budget in enumerate(budgets))
    states: dict[str, float] = {}
    days = [0, 0]
    for now in range(2 * DAY_S):
        while isinstance(decision := decide_take(states, Take("g", buckets, now)), Done):
            states.update(decision.states)
            days[now // DAY_S] += 1
    return days[0], days[1]


@pytest.mark.parametrize(
    ("budgets", "first", "later"),
    [
        (PASSWORD_BUDGETS, 155, 96),
        (CLIENT_SECRET_BUDGETS, 8_659, 8_640),
        (NETWORK_BUDGETS, 8_939, 8_640),
        (WIDE_NETWORK_BUDGETS, 86_999, 86_400),
    ],
    ids=["account", "client", "network", "wide network"],
)
def test_guesses_a_day_are_those_of_the_documentation(
    budgets: tuple[Budget, ...], first: int, later: int
) -> None:
    """docs/guessing.md tells operators these figures."""
    assert guesses_of_a_day(budgets) == (first, later)


def test_each_longer_budget_makes_the_delay_grow() -> None:
    """The first refusals cost seconds, and none ever more than a quarter of an hour."""
    for budgets in (PASSWORD_BUDGETS, NETWORK_BUDGETS):
        assert [b.burst for b in budgets] == sorted({b.burst for b in budgets})
        assert [b.interval_s for b in budgets] == sorted({b.interval_s for b in budgets})
    assert max(b.interval_s for b in PASSWORD_BUDGETS) == 900


def test_remembered_refusal_ends_at_its_instant() -> None:
    """Then the database is asked again."""
    refused = RefusedGuesses()
    refused.remember("a", 10.0)
    assert refused.wait_s("a", 4.0) == 6.0
    assert refused.wait_s("b", 4.0) is None
    assert refused.wait_s("a", 10.0) is None
    assert len(refused) == 0


def test_remembered_refusals_are_bounded() -> None:
    """The oldest gives way, so that made-up names cannot fill the memory."""
    refused = RefusedGuesses(max_remembered=2)
    for name in ("a", "b", "a", "c"):
        refused.remember(name, 10.0)
    assert len(refused) == 2
    assert refused.wait_s("b", 0.0) is None
    assert refused.wait_s("a", 0.0) == 10.0
