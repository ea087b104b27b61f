"""A document that points to a test points to one that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in (ROOT / "docs").glob("*.md") if "tests/" in path.read_text())
OWASP = sorted((ROOT / "docs").glob("owasp-*.md"))
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_TEST = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
# Honest rows without a test of ours.
_WITHOUT_TEST = ("*not built*", "*yours*")


def names_in(module: Path) -> list[str]:
    return _TEST.findall(module.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_test_exists(document: Path) -> None:
    """A renamed or deleted test takes its line with it."""
    named = _NAMED.findall(document.read_text())
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]
    assert missing == []


@pytest.mark.parametrize("document", OWASP, ids=lambda path: path.name)
def test_every_row_names_its_test_or_says_why_not(document: Path) -> None:
    """No row of the OWASP tables is a bare claim."""
    rows = [
        row.strip("|").split("|")
        for row in document.read_text().splitlines()
        if row.startswith("| ") and not row.startswith("| the sheet says")
    ]
    assert len(rows) > 10
    for cells in rows:
        assert len(cells) == 3, cells
        proof = cells[2].strip()
        assert _NAMED.search(proof) or proof in _WITHOUT_TEST, cells[0]
