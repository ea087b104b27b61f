"""The picture of the keys' lives: pinned, and right in every width."""

import pytest

from token_server.cli.key_picture import ASCII, UNICODE, Canvas, draw
from token_server.core.key_forecast import Life, Phase
from token_server.records import KeyState

NOW = 1_800_000_000  # 2027-01-15 08:00:00 UTC
DAY = 86400
NEXT, ACTIVE, RETIRING = KeyState.NEXT, KeyState.ACTIVE, KeyState.RETIRING
LIVES = (
    Life(
        "AAAAAAAAAAAA",
        True,
        (Phase(ACTIVE, NOW - 10, NOW + 25), Phase(RETIRING, NOW + 25, NOW + 72)),
    ),
    Life("BBBBBBBBBBBB", True, (Phase(NEXT, NOW - 10, NOW + 25), Phase(ACTIVE, NOW + 25, None))),
    Life("new-1", False, (Phase(NEXT, NOW + 25, None),)),
)


def drawn(width: int = 60, *, now: int = NOW, strokes: str = "unicode") -> list[str]:
    return draw(LIVES, now, Canvas(width, UNICODE if strokes == "unicode" else ASCII, False))


def test_picture_in_unicode() -> None:
    """Next, active and retiring as three strokes, now marked, the instants below their ticks."""
    assert drawn() == [
        "                        now",
        "  AAAAAAAA    ╶━━━━━━━━━━┿━━━━━━━━━━━━━─────────────────╴",
        "  BBBBBBBB    ╶┄┄┄┄┄┄┄┄┄┄┼┄┄┄┄┄┄┄┄┄┄┄┄┄━━━━━━━━━━━━━━━━━━━━→",
        "  (new-1)                │             ╶┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄→",
        "              ┴──────────▲─────────────┴────────────────┴",
        "          07:59:50   08:00:00      08:00:25         08:01:12",
        "  ┄┄┄ next   ━━━ active   ─── retiring",
        "  (UTC, not to scale)",
    ]


def test_picture_in_ascii() -> None:
    """Where the encoding has no lines."""
    lines = drawn(strokes="ascii")
    assert "".join(lines).isascii()
    assert lines[1] == "  AAAAAAAA    |==========:=============-----------------|"
    assert lines[2] == "  BBBBBBBB    |..........:.............====================>"


@pytest.mark.parametrize("width", range(40, 140))
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    """Whatever the width."""
    lines = drawn(width)
    assert lines
    assert [line for line in lines if len(line) > width] == []


def test_no_room_no_picture() -> None:
    """A terminal of a few columns gets the table alone; so does a keyring without keys."""
    assert drawn(39) == []
    assert draw((), NOW, Canvas(80, UNICODE, False)) == []


def test_what_is_furthest_off_is_cut_first() -> None:
    """Many keys in few columns: what comes next stays."""
    many = tuple(
        Life(f"key-{number}", True, (Phase(NEXT, NOW + number * DAY, None),))
        for number in range(40)
    )
    lines = draw(many, NOW, Canvas(60, UNICODE, False))
    assert any("key-0" in line for line in lines)
    assert not any("key-39" in line for line in lines)
    assert [line for line in lines if len(line) > 60] == []


def test_seconds_and_months_share_a_line() -> None:
    """The order of things is kept, whatever lies between them, and days are named once."""
    lives = (
        Life("a", True, (Phase(ACTIVE, NOW - 90 * DAY, NOW + 5), Phase(RETIRING, NOW + 5, None))),
        Life("b", True, (Phase(NEXT, NOW - 5, NOW + 5), Phase(ACTIVE, NOW + 5, NOW + 90 * DAY))),
    )
    lines = draw(lives, NOW, Canvas(100, UNICODE, False))
    labels = " ".join(lines[4:-1]).split()
    assert sorted(labels) == ["08:00:00", "08:00:05", "2026-10-17", "2027-01-15", "2027-04-15"]


def test_colours_only_when_asked() -> None:
    """Each state its own; plain text has no escape."""
    coloured = "\n".join(draw(LIVES, NOW, Canvas(60, UNICODE, True)))
    for code in ("\x1b[36m", "\x1b[32m", "\x1b[33m"):
        assert code in coloured
    assert "\x1b" not in "\n".join(drawn())
