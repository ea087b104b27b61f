"""Minimum versions hold for pins, bounds and what runs; the bill of materials is valid and true."""

import json
import re
import sqlite3
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from referencing import Registry, Resource

from token_server.cli.main import cli
from token_server.core.minimum_versions import RUNTIME, TESTS, below_minimum, is_older, normalized
from token_server.services import doctor, supply_chain
from token_server.services.supply_chain import VENDORED, bill_of_materials, installed_components

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
NOW = 1_800_000_000
PINNED = (
    "requirements.txt",
    "requirements-test.txt",
    *(
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "scripts").glob("*-requirements.txt"))
    ),
)


def pins(name: str) -> dict[str, str]:
    """Of several pins for several Pythons the oldest."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line)
        if match is not None:
            package = normalized(match[1])
            if package not in found or is_older(match[2], found[package]):
                found[package] = match[2]
    return found


def schema_validator() -> Any:
    """The official schema, with the two that it refers to."""
    names = [f"{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82")]
    documents = [json.loads((DATA / name).read_text()) for name in names]
    resources = [Resource.from_contents(each) for each in documents]
    # They refer to each other by the names of their files, below the address of the first one.
    base = documents[0]["$id"].rpartition("/")[0]
    registry: Any = Registry().with_resources(
        [(f"{base}/{name}", each) for name, each in zip(names, resources, strict=True)]
    )
    return jsonschema.Draft7Validator(
        documents[0], registry=registry, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )


@pytest.mark.parametrize("name", PINNED)
def test_pins_are_above_every_known_advisory(name: str) -> None:
    """What scripts/serve, scripts/test and the other scripts install."""
    assert len(pins(name)) > 0
    assert below_minimum(pins(name), (*RUNTIME, *TESTS)) == ()


def test_bounds_of_the_package_are_above_every_known_advisory() -> None:
    """What `pip install token-server[server]` may choose at worst."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    bounds = {}
    for line in lines:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[a-z]+\])?>=([0-9.]+)", line)
        assert match is not None, f"{line} has no lower bound"
        bounds[normalized(match[1])] = match[2]
    assert len(bounds) > 20
    assert below_minimum(bounds, (*RUNTIME, *TESTS)) == ()


def test_this_environment_is_above_every_known_advisory() -> None:
    """Everything that is installed beside these tests."""
    installed = {normalized(each.metadata["Name"]): each.version for each in distributions()}
    assert below_minimum(installed, (*RUNTIME, *TESTS)) == ()


def test_table_names_only_what_is_used() -> None:
    """A dependency that went is taken out of the table, too."""
    served, tested = pins("requirements.txt"), pins("requirements-test.txt")
    assert {minimum.name for minimum in RUNTIME} <= served.keys()
    assert {minimum.name for minimum in TESTS} <= tested.keys() - served.keys()


def test_page_for_readers_says_the_same() -> None:
    """docs/supply-chain.md has the table, row by row."""
    page = (ROOT / "docs" / "supply-chain.md").read_text()
    for minimum in (*RUNTIME, *TESTS):
        row = f"| {minimum.name} | {minimum.version} | {', '.join(minimum.advisories)} |"
        assert row in page


def test_doctor_names_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the advisories, and the version that mends them."""
    assert [finding.level for finding in doctor._dependencies()] == ["ok"]
    old = supply_chain.Component("litestar", "2.19.0", (), None, is_expression=False)
    monkeypatch.setattr(supply_chain, "installed_components", lambda: {"litestar": old})
    (finding,) = doctor._dependencies()
    assert finding.level == "fail"
    assert "litestar 2.19.0 has CVE-2026-25478" in finding.detail
    assert "2.20.0 or newer" in finding.fix


def test_components_are_what_runs() -> None:
    """All that the server's own requirements lead to, and nothing that only tests need."""
    found = installed_components()
    assert found["litestar"].version == version("litestar")
    assert "msgspec" in found["litestar"].requires
    assert {"cryptography", "asyncpg", "uvloop", "pynacl", "h11"} <= found.keys()
    assert not {"pytest", "hypothesis", "mypy", "django", "pyjwt"} & found.keys()
    assert found.keys() - {"token-server"} <= pins("requirements.txt").keys()


def test_bill_of_materials_has_the_form_of_cyclonedx_1_6() -> None:
    """Validated against the official schema, with hashes and without."""
    validator = schema_validator()
    for requirements in (None, ROOT / "requirements.txt"):
        validator.validate(bill_of_materials(NOW, requirements))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**bill_of_materials(NOW), "specVersion": 1.6})


def test_bill_of_materials_is_true() -> None:
    """Versions of what is loaded, hashes that pip checked, licences, and the graph closes."""
    document = bill_of_materials(NOW, ROOT / "requirements.txt")
    assert document["metadata"]["timestamp"] == "2027-01-15T08:00:00Z"
    components = {each["name"]: each for each in document["components"]}
    assert components["sqlite"]["version"] == sqlite3.sqlite_version
    assert components["openssl"]["version"][0] in "3456789"
    assert components["cryptography"]["licenses"] == [{"expression": "Apache-2.0 OR BSD-3-Clause"}]
    (reference,) = components["msgspec"]["externalReferences"]
    pinned = (ROOT / "requirements.txt").read_text()
    assert all(f"sha256:{each['content']}" in pinned for each in reference["hashes"])
    assert len(reference["hashes"]) > 10
    named = {each["bom-ref"] for each in document["components"]}
    assert len(named) == len(document["components"])
    for each in document["dependencies"]:
        assert set(each["dependsOn"]) <= named
    again = bill_of_materials(NOW + 9, ROOT / "requirements.txt")
    assert again["serialNumber"] == document["serialNumber"]


def test_hashes_are_those_of_the_installed_version_only(tmp_path: Path) -> None:
    """A requirements file of another release says nothing of what is here."""
    other = tmp_path / "requirements.txt"
    other.write_text(f"msgspec==0.0.1 \\\n    --hash=sha256:{'ab' * 32}\n")
    components = {each["name"]: each for each in bill_of_materials(NOW, other)["components"]}
    assert "externalReferences" not in components["msgspec"]


def test_shipped_parts_are_named_as_they_are() -> None:
    """The version beside the bundle is the one in the bill."""
    origin = ROOT / "token_server" / "web" / "static" / "swagger-ui" / "ORIGIN.md"
    for name, number, purl, _ in VENDORED:
        assert f"`{name}` {number}" in origin.read_text()
        assert purl == f"pkg:npm/{name}@{number}"


def test_command_prints_it(tmp_path: Path) -> None:
    """On standard output, or into a file for a release."""
    printed = CliRunner().invoke(cli, ["sbom"])
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["bomFormat"] == "CycloneDX"
    target = tmp_path / "token-server.cdx.json"
    written = CliRunner().invoke(
        cli, ["sbom", "--requirements", str(ROOT / "requirements.txt"), "--output", str(target)]
    )
    assert (written.exit_code, written.stdout) == (0, "")
    assert json.loads(target.read_text())["specVersion"] == "1.6"
