"""The rules of the tree that import-linter does not know."""

import ast
from pathlib import Path

import pytest

from token_server.core.client_policy import GRANT_TYPES
from token_server.grants.registry import GRANTS

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "token_server").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MAX_LINES = 400


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_module_is_one_room_and_says_what_for(module: Path) -> None:
    """At most 400 lines, and a docstring that says what it decides or does (style.md 7, 8)."""
    text = module.read_text()
    assert text.count("\n") <= MAX_LINES
    is_migration = "versions" in module.parts
    assert is_migration or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", TESTS, ids=names(TESTS))
def test_every_test_says_what_it_shows(module: Path) -> None:
    """One sentence each (style.md 41)."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_clients_may_be_given_exactly_the_grants_that_exist() -> None:
    """`client add --grant` and the registry name the same grants."""
    assert set(GRANT_TYPES) == set(GRANTS)
    assert all(name == grant.grant_type for name, grant in GRANTS.items())


def test_migrations_are_packaged() -> None:
    """What is run at start must be in the wheel: below the package, with no hole in the path."""
    versions = ROOT / "token_server" / "storage" / "migrations" / "versions"
    assert list(versions.glob("0*.py"))
