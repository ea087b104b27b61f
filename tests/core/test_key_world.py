"""The rules I1 to I6 over whole histories: servers, commands, clocks and gaps in any order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.key_world import POLICY, Instance, World
from token_server.core.key_compromise import compromise_all, compromise_key
from token_server.core.key_rotation import activate_next, roll_back, start_rotation

instances = st.integers(0, 1)
durations = st.sampled_from([1, 2, 5, 30, 65, 130, 260])
lifetimes = st.sampled_from([1, 20, 90, 200])
clocks = st.integers(0, POLICY.clock_skew_s)  # how far a command's clock is ahead


class KeyHistory(RuleBasedStateMachine):
    """Every rule of the world is checked after every step and in every second between them."""

    world: World

    @initialize(first=clocks, second=clocks)
    def install(self, first: int, second: int) -> None:
        """Keys are made, and a server starts."""
        self.world = World([Instance(first), Instance(second)])
        self.world.start(self.world.instances[0])

    @rule(which=instances)
    def start(self, which: int) -> None:
        """A server starts, or starts again."""
        self.world.start(self.world.instances[which])

    @rule(which=instances)
    def stop(self, which: int) -> None:
        """A server stops without a word."""
        self.world.instances[which].runs = False

    @rule(which=instances, can_read=st.booleans())
    def lose_sight(self, which: int, can_read: bool) -> None:
        """A server cannot read the store any more, or can again."""
        self.world.let_read(self.world.instances[which], can_read=can_read)

    @rule(seconds=durations, ttl_s=lifetimes)
    def work(self, seconds: int, ttl_s: int) -> None:
        """Time passes, and whatever runs issues tokens, of clients with lifetimes of their own."""
        self.world.pass_time(seconds, ttl_s)

    @rule(which=instances, seconds=durations)
    def stand_still(self, which: int, seconds: int) -> None:
        """No server runs for a while."""
        for instance in self.world.instances:
            instance.runs = False
        self.world.pass_time(seconds)
        self.world.start(self.world.instances[which])

    @rule(clock=clocks)
    def rotate(self, clock: int) -> None:
        """`keys rotate`."""
        self.world.change(start_rotation, clock)

    @rule(clock=clocks, force=st.booleans())
    def promote(self, clock: int, force: bool) -> None:
        """`keys promote`, or `keys rotate --now`."""
        self.world.change(lambda now: activate_next(now, "asked"), clock, force=force)

    @rule(clock=clocks)
    def go_back(self, clock: int) -> None:
        """`keys rollback`."""
        self.world.change(roll_back, clock)

    @rule(clock=clocks, number=st.integers(0, 20))
    def compromise(self, clock: int, number: int) -> None:
        """`keys compromise KID`, whichever it is."""
        kid = self.world.keys[number % len(self.world.keys)].kid
        self.world.change(lambda now: compromise_key(now, kid), clock, force=True)

    @rule(clock=clocks)
    def compromise_everything(self, clock: int) -> None:
        """`keys compromise --all`."""
        self.world.change(compromise_all, clock, force=True)

    @rule()
    def import_key(self) -> None:
        """`keys import` of a private key."""
        self.world.add_key()

    @invariant()
    def rules_hold(self) -> None:
        """On the clock of every instance."""
        if hasattr(self, "world"):
            self.world.check()


TestKeyHistory = KeyHistory.TestCase
TestKeyHistory.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
