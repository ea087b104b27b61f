"""How many guesses at passwords, client secrets and API keys are let through, counted to whom.

Pure: names the networks of an address and the budgets; who counts is services/guessing.py.
docs/guessing.md does the arithmetic for operators: change both together.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from token_server.core.throttle import Budget

# One account from one network. A person who tries what comes to mind never waits longer than a
# quarter of an hour; a machine gets some 155 guesses on the first day and 96 on each later one.
PASSWORD_BUDGETS = (Budget(5, 10), Budget(20, 120), Budget(60, 900))
# One client from one network. Its secrets have 256 random bits, so there is no need for a delay
# that grows: what matters is that a flood of wrong ones costs little.
CLIENT_SECRET_BUDGETS = (Budget(20, 10),)
API_KEY_BUDGETS = CLIENT_SECRET_BUDGETS  # as many random bits, for each key
# One network over all accounts and clients. Successes are given back, so an office behind one
# address spends only its mistakes: 300 in a bad morning, then one in ten seconds (8,640 a day).
NETWORK_BUDGETS = (Budget(30, 1), Budget(300, 10))
# An IPv6 /48 is what a customer may be given for nothing: 65,536 networks with budgets of their
# own. It may also be the phones of a town, so this one is wide: 86,400 a day.
WIDE_NETWORK_BUDGETS = (Budget(600, 1),)

_PREFIX_LENGTH = 64
_WIDE_PREFIX_LENGTH = 48
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_NO_ADDRESS = "none"
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Networks:
    """`narrow` stands for one guesser; `wide` holds it, and is None for IPv4."""

    narrow: str
    wide: str | None = None


def networks_of(ip_address: str | None) -> Networks:
    """IPv4 by address, IPv6 by /64 and /48; peers without an address are one network."""
    if ip_address is None:
        return Networks(_NO_ADDRESS)
    address = ipaddress.ip_address(ip_address)
    if isinstance(address, ipaddress.IPv6Address):
        ipv4 = address.ipv4_mapped or _translated(address)
        if ipv4 is None:
            return Networks(_prefix(address, _PREFIX_LENGTH), _prefix(address, _WIDE_PREFIX_LENGTH))
        address = ipv4
    return Networks(str(address))


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address in one that a translator made (RFC 6052 §2.1): all of IPv4 is one /64."""
    if address not in _TRANSLATED:
        return None
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _prefix(address: ipaddress.IPv6Address, length: int) -> str:
    return str(ipaddress.IPv6Network((int(address), length), strict=False))


class RefusedGuesses:
    """What one process knows to be refused for a while, so that it need not be counted again.

    Bounded: the oldest gives way, and what was forgotten is asked of the database once more.
    """

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, name: str, until: float) -> None:
        """`until` is an instant of the monotonic clock."""
        self._until[name] = until
        self._until.move_to_end(name)
        while len(self._until) > self._max_remembered:
            self._until.popitem(last=False)

    def wait_s(self, name: str, now: float) -> float | None:
        """How long `name` is still refused; None when it is not."""
        until = self._until.get(name)
        if until is None:
            return None
        if until <= now:
            del self._until[name]
            return None
        return until - now
