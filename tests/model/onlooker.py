"""Who only looks on: clocks, published keys and status lists, as they must be whatever happens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.model.answers import Answer
from tests.model.calls import ISSUER
from tests.model.explaining import ViolationError
from tests.model.nodes import World
from tests.model.offline import Published, StatusListError, TokenError
from tests.model.state import Access, State
from token_server.services.key_rotation import Asked, compromise_key, rotate_keys

NEXT_STATUS_LOOK_MS = 600  # a server looks for revocations every half a second
KEY_NAMED_S = 29 * 86400  # status lists name a compromised key for 30 days


@dataclass(slots=True)
class Onlooker:
    """Keys belong to the servers and not to one sequence: what is known of them stays."""

    world: World
    _published: list[Published] = field(init=False)
    _compromised: dict[str, int] = field(default_factory=dict)  # since when, by kid

    def __post_init__(self) -> None:
        self._published = [Published() for _ in self.world.nodes]

    @property
    def compromised(self) -> frozenset[str]:
        return frozenset(self._compromised)

    def check_clocks(self) -> None:
        for node in self.world.nodes:
            clock = node.runtime.clock
            found = (clock.now(), clock.is_stepped_back())
            if found != (node.clock.now, node.clock.is_stepped_back):
                raise ViolationError(f"a server's clock says {found}, not {node.clock}")

    async def fetch_all(self, states: Sequence[State]) -> None:
        for which in range(len(self.world.nodes)):
            await self._fetch(which, states)

    async def _fetch(self, which: int, states: Sequence[State]) -> None:
        """No compromised key, always one that is next, and every key by which a token may still be
        good."""
        node = self.world.nodes[which]
        reply = await node.get("/.well-known/jwks.json")
        if reply.status != 200:
            raise ViolationError(f"no key set: {reply}")
        kids = frozenset(each["kid"] for each in reply.json()["keys"])
        self._published[which].take(reply.body, kids)
        if kids & self._compromised.keys():
            raise ViolationError("a compromised key is published")
        if len(kids) < 2:
            raise ViolationError("no next key is published")
        needed = {
            each.kid
            for state in states
            for each in state.access.values()
            if each.kid not in self._compromised and node.clock.now < each.expires_at
        }
        if not needed <= kids:
            raise ViolationError(f"tokens live whose keys are not published: {needed - kids}")

    async def verified(self, answer: Answer, which: int, states: Sequence[State]) -> Answer:
        """The answer with the claims of its access token, if it has one, as a service reads them
        by the keys that the very same server publishes."""
        if answer.status != 200 or not answer.body.startswith(b'{"access_token"'):
            return answer
        token, published = str(answer.members["access_token"]), self._published[which]
        if not published.is_known(token):
            await self._fetch(which, states)
        try:
            claims, kid = published.verify(token, self.world.nodes[which].clock.now)
        except TokenError as error:
            reason = error.reason
        else:
            if kid in self._compromised:
                raise ViolationError(f"a token was signed by the compromised key {kid}")
            return replace(answer, claims=claims, kid=kid)
        raise ViolationError(f"a token was issued that no service takes: {reason}")

    async def change_keys(self, verb: str) -> None:
        """`keys rotate`, at once or by the book, or `keys compromise` of the one that signs; then
        a second passes, in which every server sees it."""
        node = self.world.nodes[0]
        match verb:
            case "rotate":
                await rotate_keys(node.runtime, Asked("rotate"), now=True)
            case "schedule":
                await rotate_keys(node.runtime, Asked("rotate"))
            case _:
                kid = node.runtime.keyring.signer(node.clock.now).kid
                await compromise_key(node.runtime, kid, Asked("compromise"))
                self._compromised[kid] = node.clock.now
        self.world.set_clock(forward_ms=1000)
        for each in self.world.nodes:
            await each.tick()

    async def read_lists(self, which: int, states: Sequence[State]) -> list[State]:
        """The states that agree with the status lists: every token that may live has its bit set
        if it has ended, and only then. The newest list names the compromised keys."""
        self.world.set_clock(forward_ms=NEXT_STATUS_LOOK_MS)
        node, published = self.world.nodes[which], self._published[which]
        now, lists = node.clock.now, {}
        newest = (await node.get("/oauth2/status-lists")).json()["status_lists"][-1]
        for uri in {newest, *(access.place[0] for _, access in _listed(states[0], now))}:
            reply = await node.get(uri.removeprefix(ISSUER))
            if reply.status != 200:
                raise ViolationError(f"no status list: {reply}")
            try:
                lists[uri] = published.read_list(reply.body, uri, now)
            except StatusListError as error:
                raise ViolationError(f"a status list that no service takes: {error}") from None
        named = {kid for kid, at in self._compromised.items() if now < at + KEY_NAMED_S}
        if not named <= lists[newest].revoked_kids:
            raise ViolationError("a status list does not name a compromised key")
        return [
            state
            for state in states
            if all(
                bool(lists[each.place[0]].find(each.place[1])) == _is_ended(state, text, each)
                for text, each in _listed(state, now)
            )
        ]


def _listed(state: State, now: int) -> list[tuple[str, Access]]:
    """The tokens that have a place in a list and may live."""
    return [
        (text, each)
        for text, each in state.access.items()
        if each.place[0] and now < each.expires_at
    ]


def _is_ended(state: State, text: str, access: Access) -> bool:
    if access.family is None:
        return text in state.given_back
    family = state.families.get(access.family)
    return family is not None and family.is_revoked
