"""Requests generated from the served OpenAPI document, against real servers.

Each operation gets its share of valid and invalid requests, with good, foreign and broken
credentials, and tokens of real sessions where the document asks for some; then sequences of
operations that follow one another. Every answer must be one that the document describes, no status
may be a 500, and the server must log no failure. `scripts/schemathesis --help`.
"""

import argparse
import collections
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import SkipTest

import httpx
import jsonschema
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from scripts._schemathesis_world import World
from tests.support.contract import Contract
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import ServerProcess, running_processes

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STEPS = 12  # operations in one sequence
SEQUENCES = 20  # at a time
# A path that a generated parameter led elsewhere, a method that exists nowhere.
UNDOCUMENTED = frozenset({400, 404, 405, 431})
OVERRIDES = {
    "REGISTRATION": "open",
    "TRUSTED_PROXIES": "127.0.0.1/32",
    "BROWSER_ORIGINS": "https://auth.example",
}


@dataclass(slots=True)
class Run:
    """One server, what was asked of it and what was wrong."""

    world: World
    contract: Contract
    session: requests.Session = field(default_factory=requests.Session)
    asked: int = 0
    answers: "collections.Counter[tuple[str, int]]" = field(default_factory=collections.Counter)
    problems: dict[str, str] = field(default_factory=dict)

    def ask(self, case: Case, random: Any) -> None:
        """Send it, as somebody, and judge the answer."""
        kwargs = self.world.dress(case, random)
        try:
            answer = case.call(session=self.session, **kwargs)
        except (requests.RequestException, ValueError) as error:
            self._unsendable(case, error)
            return
        self.judge(case, answer)

    def judge(self, case: Case, answer: Any) -> None:
        self.asked += 1
        name = case.operation.definition.raw.get("operationId", case.operation.label)
        self.answers[name, answer.status_code] += 1
        self.world.learn(answer)
        if answer.status_code == 500:
            self._note(name, answer, "a failure of the server")
        found = httpx.Response(
            answer.status_code,
            headers={key: ", ".join(values) for key, values in answer.headers.items()},
            content=answer.content,
            request=httpx.Request(answer.request.method, answer.request.url),
        )
        # httpx has the body as the wire had it, encodings undone: there are none.
        path = httpx.URL(answer.request.url).path
        is_here = answer.request.method == case.operation.method.upper() and self._is_path_of(
            case, path
        )
        if not is_here:
            if answer.status_code not in UNDOCUMENTED and not self._is_documented(found):
                self._note(name, answer, "not documented")
            return
        try:
            self.contract.check(found)
            case.validate_response(answer, checks=CHECKS)
        except (AssertionError, jsonschema.ValidationError, FailureGroup, KeyError) as error:
            self._note(name, answer, _text(error))

    def _is_path_of(self, case: Case, path: str) -> bool:
        ours, theirs = case.operation.path.split("/"), path.split("/")
        return len(ours) == len(theirs) and all(
            mine == other or (mine.startswith("{") and other)
            for mine, other in zip(ours, theirs, strict=True)
        )

    def _is_documented(self, answer: httpx.Response) -> bool:
        try:
            self.contract.check(answer)
        except (AssertionError, jsonschema.ValidationError, KeyError):
            return False
        return True

    def _unsendable(self, case: Case, error: Exception) -> None:
        """What the client library itself refuses to put on the wire is no request; a connection
        that breaks is an answer that never came."""
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            self.problems.setdefault(f"{case.operation.label}: no answer", str(error)[:300])

    def _note(self, name: str, answer: Any, text: str) -> None:
        key = f"{name} {answer.status_code}: {text.splitlines()[0][:160]}"
        self.problems.setdefault(
            key,
            f"{answer.request.method} {answer.request.url} {answer.request.body!r:.600}\n"
            f"    {dict(answer.request.headers)!r:.600}\n"
            f"    -> {answer.content!r:.400}\n{text:.900}",
        )


def _text(error: Exception) -> str:
    if isinstance(error, FailureGroup):
        return "; ".join(f"{each.title}: {each.message}" for each in error.exceptions)
    return str(error) or repr(error)


def run_stateless(run: Run, schema: Any, wanted: int, first_seed: int) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    share = max(1, wanted // len(operations) // 2)
    for operation in operations:
        good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        bad = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        for strategy in (good, bad):
            end = run.asked + share
            # Where nothing can be wrong, there is no bad request.
            with contextlib.suppress(Unsatisfiable, SkipTest):
                _generate(run, strategy, share, first_seed)
            # An operation without parameters has few: some again, as somebody else.
            _repeat(run, good, end - run.asked, first_seed)


def _generate(run: Run, strategy: Any, count: int, first_seed: int) -> None:
    @seed(first_seed)
    @settings(
        max_examples=max(count, 1),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, random=st.randoms(use_true_random=True))
    def ask(case: Case, random: Any) -> None:
        run.ask(case, random)

    ask()


def _repeat(run: Run, strategy: Any, count: int, first_seed: int) -> None:
    end = run.asked + count
    while run.asked < end:
        before = run.asked
        first_seed += 1
        _generate(run, strategy, end - run.asked, first_seed)
        if run.asked == before:
            return


def run_stateful(run: Run, schema: Any, wanted: int, first_seed: int) -> None:
    """Sequences: what one answer gave is used in the next request."""
    machine = schema.as_state_machine()
    end = run.asked + wanted

    class Sequence(machine):  # type: ignore[valid-type,misc]
        def call(self, case: Case, **kwargs: Any) -> Any:
            dressed = run.world.dress(case, run.world.random)
            return super().call(case, session=run.session, **{**kwargs, **dressed})

        def validate_response(self, response: Any, case: Case, **_: Any) -> None:
            run.judge(case, response)

    few = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while run.asked < end:
        before = run.asked
        first_seed += 1
        # The server remembers what earlier sequences did: the same steps have other answers, which
        # hypothesis takes for a flaw of the test. All answers have been judged by then.
        with contextlib.suppress(Flaky):
            seed(first_seed)(Sequence).run(settings=few)
        if run.asked == before:
            return


@contextlib.contextmanager
def started(database: str, workers: int) -> Iterator[tuple[World, list[ServerProcess]]]:
    overrides = {**OVERRIDES, "WORKERS": str(workers)}
    with (
        temporary_installation(database) as plain,
        running_processes(installation := replace(plain, overrides=overrides), 1) as servers,
    ):
        yield World.make(installation, servers[0].base_url), servers


def logged_failures(servers: list[ServerProcess]) -> list[str]:
    return [
        f"{record['event']}: {record.get('exception', '')[-300:]}"
        for server in servers
        for record in server.log_records()
        if record.get("level") == "error"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/schemathesis", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="a third of them stateful")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--workers", type=int, default=1, help="several on PostgreSQL only")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with started(options.database, options.workers) as (world, servers):
        document = httpx.get(f"{world.base_url}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=world.base_url)
        run = Run(world, Contract(document))
        run_stateless(run, schema, options.requests * 2 // 3, options.seed)
        run_stateful(run, schema, options.requests - run.asked, options.seed)
        for failure in logged_failures(servers):
            run.problems.setdefault(f"logged: {failure[:100]}", failure)
    _report(run, options.database, time.monotonic() - began)
    return 1 if run.problems else 0


def _report(run: Run, database: str, took_s: float) -> None:
    by_status: collections.Counter[int] = collections.Counter()
    for (_, status), count in run.answers.items():
        by_status[status] += count
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(by_status.items()))
    seen = len({(name, status) for name, status in run.answers})
    print(
        f"{database}: {run.asked:,} requests in {took_s:.0f} s ({statuses}); {seen} answers of "
        f"{len({name for name, _ in run.answers})} operations, {len(run.problems)} problems"
    )
    for key, detail in list(run.problems.items())[:40]:
        print(f"  {key}\n    {detail}")


if __name__ == "__main__":
    raise SystemExit(main())
