"""Headless Chromium with a fresh profile, able to reach only the names that a test maps."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # root in a container has no user namespace; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # the sites' certificate is made by the test
    "--enable-logging=stderr",  # the console of the pages
)


def find_chromium() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browsing(
    chromium: str, url: str, hosts: Mapping[str, str] | None = None, *more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Open `url`; `hosts` maps names to addresses with ports, any other name is unknown.

    The profile is gone and every process of it ended when the block is left.
    """
    rules = [f"MAP {name}:443 {address}" for name, address in (hosts or {}).items()]
    rules += ["MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"]
    with tempfile.TemporaryDirectory(prefix="ts-chromium-", ignore_cleanup_errors=True) as profile:
        log = (Path(profile) / "console.log").open("wb")
        process = subprocess.Popen(
            [
                chromium,
                *_FLAGS,
                f"--user-data-dir={profile}",
                f"--host-resolver-rules={', '.join(rules)}",
                *more,
                url,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # one group, so that its helpers end with it
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            log.close()


def rendered(chromium: str, url: str, wait_ms: int = 10_000) -> tuple[str, str]:
    """The DOM of the page once its scripts are done, and what its console said."""
    options = ("--dump-dom", f"--virtual-time-budget={wait_ms}")
    with browsing(chromium, url, None, *options) as process:
        dom, _ = process.communicate(timeout=60)
        profile = next(arg for arg in process.args if str(arg).startswith("--user-data-dir="))  # type: ignore[union-attr]  # a list
        console = (Path(str(profile).partition("=")[2]) / "console.log").read_text()
        return dom.decode(), console
