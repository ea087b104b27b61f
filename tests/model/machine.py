"""The state machine: hypothesis draws sequences of steps, the servers do them, the model judges.

One world of servers serves many sequences, each with people, clients and sessions of its own.
"""

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.model.explaining import ViolationError
from tests.model.game import Game
from tests.model.plans import (
    ASK,
    BEGIN,
    JOIN,
    MANAGE,
    MEETING,
    OPERATE,
    RENEW,
    Plan,
    about_the_same,
)

NODES = st.integers(0, 1)
PASSING = {  # seconds; the short ones are drawn more often
    "a moment": 1,
    "a little": 4,
    "a cache": 6,
    "half a minute": 31,
    "minutes": 400,
    "a quarter of an hour": 901,
    "hours": 9 * 3600,
    "days": 4 * 86400,
    "weeks": 12 * 86400,
}
# Of the wall clock, from the furthest that it has been: followed, feared, or set right again.
SETTING = {"right": 0, "slip": -5, "jump": 40, "leap": 7200, "fall": -600}


class Sequence(RuleBasedStateMachine):
    """One sequence; `game` is shared with the ones before and after it."""

    def __init__(self, game: Game) -> None:
        super().__init__()
        self.game = game
        self.is_whole = False

    def do(self, step: Callable[[], None]) -> None:
        self.is_whole = False
        try:
            step()
        except Exception as error:
            self.game.note_failure(error)
            raise
        self.is_whole = True

    @initialize(
        windows=st.tuples(st.sampled_from((30, 300, 5, 0)), st.sampled_from((30, 0, 300))),
        idle_s=st.sampled_from((None, 60, 3600)),
        absolute_s=st.sampled_from((None, 3600, 86400)),
    )
    def begin(self, windows: tuple[int, int], idle_s: int | None, absolute_s: int | None) -> None:
        """Somebody registers; two clients have policies of their own."""
        self.do(lambda: self.game.begin(windows, idle_s, absolute_s))

    @rule(plan=BEGIN, node=NODES)
    def log_in(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(plan=RENEW, node=NODES)
    def refresh(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(plan=RENEW, node=NODES)
    def refresh_on(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(plan=ASK, node=NODES)
    def ask(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(plan=MANAGE, node=NODES)
    def manage(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(plan=st.one_of(OPERATE, OPERATE, JOIN), node=NODES)
    def operate(self, plan: Plan, node: int) -> None:
        self.do(lambda: self.game.step((plan,), (node,)))

    @rule(first=MEETING, second=MEETING, is_same=st.booleans(), nodes=st.tuples(NODES, NODES))
    def meet(self, first: Plan, second: Plan, is_same: bool, nodes: tuple[int, int]) -> None:
        """Two actors, and both requests are under way before either is answered."""
        other = about_the_same(first, second) if is_same else second
        self.do(lambda: self.game.step((first, other), nodes))

    @rule(first=RENEW, second=MEETING, nodes=st.tuples(NODES, NODES))
    def meet_at_a_session(self, first: Plan, second: Plan, nodes: tuple[int, int]) -> None:
        self.do(lambda: self.game.step((first, about_the_same(first, second)), nodes))

    @rule(kind=st.sampled_from((*tuple(PASSING)[:4] * 3, *PASSING)))
    def pass_time(self, kind: str) -> None:
        self.do(lambda: self.game.pass_time(PASSING[kind]))

    @rule(
        what=st.sampled_from(
            ("look",) * 20 + tuple(SETTING) * 6 + ("restart", "rotate", "schedule", "compromise")
        ),
        node=NODES,
    )
    def keep_house(self, what: str, node: int) -> None:
        """Status lists are read, the wall clock is set, a server restarts, keys change."""
        match what:
            case "look":
                self.do(lambda: self.game.look(node))
            case "restart":
                self.do(lambda: self.game.restart(node))
            case "rotate" | "schedule" | "compromise":
                self.do(lambda: self.game.change_keys(what))
            case _:
                self.do(lambda: self.game.set_clock(SETTING[what]))

    def teardown(self) -> None:
        if self.is_whole:
            self.do(self.game.finish)


def play(game: Game, sequences: int, steps: int, start: int, *, shrink: bool = True) -> None:
    """So many sequences of so many steps, the same ones for the same `start`. The first violation
    is raised, by hypothesis, with the shortest sequence that shows it."""

    @seed(start)
    def factory() -> Sequence:
        return Sequence(game)

    try:
        _run(factory, sequences, steps, shrink=shrink)
    except Flaky as error:  # what was seen first did not come again, and hypothesis says only that
        raise ViolationError(game.failure) from error


def _run(factory: Callable[[], Sequence], sequences: int, steps: int, *, shrink: bool) -> None:
    run_state_machine_as_test(
        factory,  # type: ignore[arg-type] # anything that makes a machine will do
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
