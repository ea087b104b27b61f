"""Versions with advisories: how they are compared."""

import pytest

from token_server.core.minimum_versions import (
    RUNTIME,
    TESTS,
    below_minimum,
    is_older,
    normalized,
)


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        ("1.9.9", "1.10"),
        ("2.20.0rc1", "2.20.0"),
        ("2.20.0.dev3", "2.20.0"),
        ("1.6.1", "1.6.2"),
        ("3", "3.0.1"),
        ("2024.7.3", "2024.7.4"),
        ("junk", "0.1"),
        ("", "0.1"),
    ],
)
def test_older_versions_are_older(version: str, minimum: str) -> None:
    """By numbers and not as texts; what says nothing is taken for old."""
    assert is_older(version, minimum)


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        ("1.10", "1.9.9"),
        ("2.20.0", "2.20"),
        ("2.20", "2.20.0"),
        ("2.20.0.post1", "2.20.0"),
        ("2.20.1rc1", "2.20.0"),
        ("50.0.2+local.1", "50.0.0"),
        ("v1.0", "1.0"),
    ],
)
def test_the_same_and_newer_ones_are_not(version: str, minimum: str) -> None:
    """The version that mends an advisory is good, and so is everything after it."""
    assert not is_older(version, minimum)


def test_only_what_is_there_and_too_old_is_named() -> None:
    """With its version, by its normalised name."""
    installed = {"litestar": "2.19.0", "h11": "0.16.0", "unknown": "0.0.1"}
    ((minimum, version),) = below_minimum(installed)
    assert (minimum.name, version) == ("litestar", "2.19.0")
    assert "CVE-2026-25479" in minimum.advisories


def test_table_is_sound() -> None:
    """Each package once, by its normalised name, with at least one advisory and a reason."""
    for table in (RUNTIME, TESTS):
        names = [minimum.name for minimum in table]
        assert names == sorted(set(names))
        for minimum in table:
            assert normalized(minimum.name) == minimum.name
            assert minimum.advisories
            assert minimum.about
            assert is_older("0", minimum.version)
