"""The refresh cookie in a real browser: our own page can use it, no other page can.

One browser goes from page to page: our page logs in, a page of a sibling host and one of a
stranger's site try all they can, our page goes on. `sites.passed` is what really reached the
server.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import browsing
from tests.browser.sites import AUTH, Passed, Sites, serving_sites
from tests.support.process import PUBLIC_ISSUER, Installation, running_processes
from token_server.web.cookies import COOKIE_NAME

PAGES = Path(__file__).parent / "pages"
SIBLING, STRANGER = f"shop.{AUTH}", "evil.example"
ASKED_FOR_TOKENS = ["access_token", "expires_in", "token_type"]
ATTEMPTS = {
    "refresh as json": "blocked",
    "refresh as text": "blocked",
    "refresh unread": "blocked",
    "log out": "blocked",
    "log out unread": "blocked",
    "end sessions": "blocked",
    "read me": "blocked",
    "token endpoint": "blocked",
    "form to refresh": "blocked",
    "form to log out": "blocked",
    "cookies": "",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """What each page reported, in the order of the visit, and what reached the server."""

    first: dict[str, Any]
    sibling: dict[str, Any]
    stranger: dict[str, Any]
    after: dict[str, Any]
    passed: list[Passed]

    def from_origin(self, origin: str) -> list[Passed]:
        return [each for each in self.passed if each.origin == origin]


def page(name: str, then: str = "") -> str:
    return (PAGES / name).read_text().replace("NEXT", then)


@pytest.fixture(scope="module")
def visit(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    directory = tmp_path_factory.mktemp("cookie")
    overrides = {"REGISTRATION": "open"}
    installation = Installation(directory, f"sqlite:///{directory}/token-server.db", overrides)
    assert f"https://{AUTH}" == PUBLIC_ISSUER
    pages = {
        (AUTH, "/first"): page("shop.html", f"https://{SIBLING}/attack"),
        (SIBLING, "/attack"): page("attack.html", f"https://{STRANGER}/attack"),
        (STRANGER, "/attack"): page("attack.html", f"https://{AUTH}/after"),
        (AUTH, "/after"): page("shop.html", f"https://{STRANGER}/leave"),
        (STRANGER, "/leave"): page("leave.html"),
    }
    with running_processes(installation) as [server]:
        sites = Sites(server.address, pages)
        with serving_sites(sites):
            hosts = dict.fromkeys((AUTH, SIBLING, STRANGER), sites.address)
            more = ("--remote-debugging-port=0",)  # or it ends with the first page
            with browsing(chromium, f"https://{AUTH}/first", hosts, *more):
                reports = [sites.next_report() for _ in range(4)]
                count = len(sites.passed)
                wait_for_one_more(sites, count)
    assert [host for host, _ in reports] == [AUTH, SIBLING, STRANGER, AUTH]
    first, sibling, stranger, after = (report for _, report in reports)
    return Visit(first, sibling, stranger, after, sites.passed)


def wait_for_one_more(sites: Sites, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(sites.passed) <= count:
        assert time.monotonic() < deadline, "the last page did not send its form"
        time.sleep(0.05)


def test_own_page_refreshes_by_the_cookie(visit: Visit) -> None:
    """Registered and refreshed with the token in the cookie, never in an answer."""
    assert visit.first["registered"] == 200
    assert visit.first["registered_members"] == ASKED_FOR_TOKENS
    assert visit.first["refreshed"] == 200
    assert visit.first["refreshed_members"] == ASKED_FOR_TOKENS
    assert visit.first["me"] == "ada@example.org"


def test_no_script_sees_the_cookie(visit: Visit) -> None:
    """Not even ours: not in document.cookie, the cookie store or the answer's headers."""
    for report in (visit.first, visit.after):
        assert report["cookies"] == {"document": "", "store": []}
        assert report["set_cookie"] is None


def test_page_of_another_site_reads_nothing_and_sends_no_cookie(visit: Visit) -> None:
    """Whatever it sends arrives without the cookie (SameSite=Strict) and is refused."""
    assert visit.stranger == ATTEMPTS
    sent = visit.from_origin(f"https://{STRANGER}")
    assert {each.path for each in sent} >= {"/api/auth/refresh", "/api/auth/logout"}
    assert [each for each in sent if each.cookie is not None] == []
    assert {each.status for each in sent} <= {400, 401, 403, 405, 415}


def test_page_of_a_sibling_host_reads_nothing_and_changes_nothing(visit: Visit) -> None:
    """To browsers a sibling is the same site and its requests carry the cookie: what refuses
    them is the check of the Origin."""
    assert visit.sibling == ATTEMPTS
    sent = visit.from_origin(f"https://{SIBLING}")
    with_cookie = [each for each in sent if COOKIE_NAME in (each.cookie or "")]
    assert {each.path for each in with_cookie} >= {"/api/auth/refresh", "/api/auth/logout"}
    assert {each.status for each in with_cookie if each.path == "/api/auth/logout"} == {403}
    assert {each.status for each in sent} <= {400, 401, 403, 405, 415}


def test_frame_without_an_origin_changes_nothing(visit: Visit) -> None:
    """`Origin: null` is no origin of ours."""
    sent = visit.from_origin("null")
    assert {each.path for each in sent} == {"/api/auth/logout"}
    assert {each.status for each in sent} <= {401, 403}


def test_cookie_cannot_be_planted_from_a_sibling_host(visit: Visit) -> None:
    """`__Host-` refuses a Domain and a Path: the server never sees a second one."""
    assert all("planted" not in (each.cookie or "") for each in visit.passed)


def test_session_goes_on_after_the_attacks(visit: Visit) -> None:
    """Nothing was spent or ended: our own page refreshes as before."""
    assert visit.after["refreshed"] == 200
    assert visit.after["me"] == "ada@example.org"


def test_top_level_form_of_another_site_sends_no_cookie(visit: Visit) -> None:
    """A window that a stranger's form sends to us comes without the session."""
    last = visit.passed[-1]
    assert (last.method, last.path) == ("POST", "/api/auth/logout")
    assert (last.cookie, last.status) == (None, 401)
