"""The leak scan in every run of pytest: a test that leaks fails, and so does the run.

After each test all that it made servers and commands say is searched for every secret known by
then; at the end of a worker's run everything for everything. `scripts/test -k nothing` shows the
line that it adds to the summary.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.leaks.hooks import KeyDirectories, watching
from tests.support.leaks.watch import Watch

_WATCH = pytest.StashKey[Watch]()
_REPORTS = pytest.StashKey[list[dict[str, int]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_WATCH] = Watch()
    config.stash[_REPORTS] = []


@pytest.fixture(scope="session", autouse=True)
def leak_watch(pytestconfig: pytest.Config) -> Iterator[tuple[Watch, KeyDirectories]]:
    """Its end is the end of the run: what was said early is searched for what was made late."""
    watch = pytestconfig.stash[_WATCH]
    with watching(watch) as directories:
        yield watch, directories
    fail_for(watch.look_back())


@pytest.fixture(autouse=True)
def nothing_leaks(leak_watch: tuple[Watch, KeyDirectories]) -> Iterator[None]:
    """Begins before and ends after all other fixtures of a test."""
    watch, directories = leak_watch
    yield
    directories.learn()
    leaks = watch.look()
    directories.forget()
    watch.forget_files()
    fail_for(leaks)


def fail_for(leaks: set[Any]) -> None:
    if leaks:
        pytest.fail("\n".join(sorted(map(str, leaks))), pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    watch = session.config.stash[_WATCH]
    report = {"secrets": len(watch.secrets), "bytes": watch.heard_bytes}
    output = getattr(session.config, "workeroutput", None)  # in a worker of pytest-xdist
    if output is not None:
        output["leak_scan"] = report
    else:
        session.config.stash[_REPORTS].append(report)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    report = getattr(node, "workeroutput", {}).get("leak_scan")
    if report is not None:
        node.config.stash[_REPORTS].append(report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = config.stash[_REPORTS]
    secrets = sum(report["secrets"] for report in reports)
    megabytes = sum(report["bytes"] for report in reports) / 1e6
    terminalreporter.write_line(
        f"leak scan: {secrets:,} secrets searched in {megabytes:.1f} MB of logs, errors, metrics,"
        " documents and what commands print"
    )
