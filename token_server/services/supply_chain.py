"""What this installation is made of, and a bill of materials of it (CycloneDX 1.6, ECMA-424).

Read from the metadata of the installed distributions, without the network: the package itself,
what it and its extras require, what those require. Only what is installed is named.
"""

import hashlib
import json
import re
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from token_server.core.minimum_versions import Minimum, below_minimum, normalized
from token_server.errors import OperatorError
from token_server.services.installation import package_version

NAME = "token-server"
EXTRAS = frozenset({"server", "postgres", "fast"})
# Shipped inside the package; web/static/swagger-ui/ORIGIN.md.
VENDORED = (("swagger-ui-dist", "5.35.0", "pkg:npm/swagger-ui-dist@5.35.0", "Apache-2.0"),)

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?[^;]*(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_MARKER = re.compile(r"""\s*(python_version|sys_platform)\s*(==|!=|<=|>=|<|>)\s*["']([^"']+)["']""")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SPDX = {
    "MIT": "MIT",
    "MIT License": "MIT",
    "BSD License": None,  # which one is not said
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD-3-Clause": "BSD-3-Clause",
    "MPL-2.0": "MPL-2.0",
}


@dataclass(frozen=True, slots=True)
class Component:
    """One installed distribution; `name` is normalised, `requires` only what is installed."""

    name: str
    version: str
    requires: tuple[str, ...]
    license_text: str | None
    is_expression: bool

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def installed_components() -> dict[str, Component]:
    """By name, the package itself first."""
    found: dict[str, Component] = {}
    waiting = [NAME]
    while waiting:
        name = normalized(waiting.pop(0))
        if name in found:
            continue
        try:
            metadata = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that was not asked for, another platform's
        required = tuple(_required(metadata, EXTRAS if name == NAME else frozenset()))
        license_text, is_expression = _license(metadata)
        version = package_version() if name == NAME else metadata.version
        found[name] = Component(name, version, required, license_text, is_expression)
        waiting.extend(required)
    return {
        name: Component(
            component.name,
            component.version,
            tuple(sorted({each for each in component.requires if each in found})),
            component.license_text,
            component.is_expression,
        )
        for name, component in found.items()
    }


def outdated_components() -> tuple[tuple[Minimum, str], ...]:
    """What is installed in a version to which an advisory applies, with that version."""
    return below_minimum({name: each.version for name, each in installed_components().items()})


def bill_of_materials(now: int, requirements: Path | None = None) -> dict[str, Any]:
    """The CycloneDX document. With the pinned requirements file the hashes of the files from which
    each component may have been installed; only for the version that is installed."""
    components = installed_components()
    root = components.pop(NAME, None) or Component(NAME, package_version(), (), None, False)
    hashes = {} if requirements is None else _pinned_hashes(requirements)
    listed = [
        *(_python_component(each, hashes) for _, each in sorted(components.items())),
        *_native_components(),
        *(_vendored_component(*each) for each in VENDORED),
    ]
    dependencies = [
        {"ref": each.purl, "dependsOn": [components[name].purl for name in each.requires]}
        for each in (root, *(each for _, each in sorted(components.items())))
    ]
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": NAME}]},
            "component": {**_python_component(root, {}), "type": "application"},
        },
        "components": listed,
        "dependencies": dependencies,
    }
    # The same installation has the same number, whenever it is asked.
    digest = hashlib.sha256(json.dumps([listed, dependencies]).encode()).digest()
    return {**content, "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"}


def _required(metadata: Distribution, extras: frozenset[str]) -> Iterator[str]:
    for line in metadata.requires or ():
        match = _REQUIREMENT.match(line)
        if match is not None and _applies(match[2] or "", extras):
            yield normalized(match[1])


def _applies(marker: str, extras: frozenset[str]) -> bool:
    """Whether a requirement counts here. Markers that are not understood do: what is not
    installed is left out anyway."""
    extra = _EXTRA.search(marker)
    if extra is not None and extra[1] not in extras:
        return False
    simple = _MARKER.match(marker)
    if simple is None or " or " in marker:
        return True
    name, operator, text = simple.groups()
    if name == "sys_platform":
        return (sys.platform == text) == (operator == "==")
    found, wanted = sys.version_info[:2], tuple(int(part) for part in text.split(".")[:2])
    comparisons = {
        "==": found == wanted,
        "!=": found != wanted,
        "<": found < wanted,
        "<=": found <= wanted,
        ">": found > wanted,
        ">=": found >= wanted,
    }
    return comparisons[operator]


def _license(metadata: Distribution) -> tuple[str | None, bool]:
    """As its author says it, and whether that is an SPDX expression (PEP 639)."""
    # The stubs know less than an email.message.Message, which it is.
    fields: Any = metadata.metadata
    expression = fields.get("License-Expression")
    if expression:
        return expression, True
    stated = (fields.get("License") or "").strip()
    if stated and len(stated) <= 64 and "\n" not in stated:
        return stated, False
    classifiers = fields.get_all("Classifier") or []
    named = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    return (named[0] if named else None), False


def _python_component(
    component: Component, hashes: Mapping[tuple[str, str], list[str]]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
    }
    if component.license_text is not None:
        described["licenses"] = [_license_choice(component.license_text, component.is_expression)]
    files = hashes.get((component.name, component.version))
    if files:
        described["externalReferences"] = [
            {
                "type": "distribution",
                "url": component.purl,
                "comment": "One of these files, by platform: the pins of the requirements file.",
                "hashes": [{"alg": "SHA-256", "content": each} for each in files],
            }
        ]
    return described


def _license_choice(text: str, is_expression: bool) -> dict[str, Any]:
    if is_expression:
        return {"expression": text}
    known = _SPDX.get(text)
    return {"license": {"name": text} if known is None else {"id": known}}


def _native_components() -> list[dict[str, Any]]:
    """Libraries in C that come with Python or inside a wheel, in the versions that run."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    found = [("cpython", python), ("sqlite", sqlite3.sqlite_version)]
    openssl = _openssl_version()
    if openssl is not None:
        found.append(("openssl", openssl))
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:generic/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:generic/{name}@{version}",
        }
        for name, version in found
    ]


def _openssl_version() -> str | None:
    """Of the one that `cryptography` is linked with; Python's own `ssl` is not used to sign."""
    from cryptography.hazmat.backends.openssl.backend import backend

    match = re.match(r"OpenSSL (\S+)", backend.openssl_version_text())
    return None if match is None else match[1]


def _vendored_component(name: str, version: str, purl: str, spdx: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"license": {"id": spdx}}],
    }


def _pinned_hashes(path: Path) -> dict[tuple[str, str], list[str]]:
    """By name and version. OperatorError when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise OperatorError(f"{path} is not a requirements file that can be read.") from None
    found: dict[tuple[str, str], list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        pinned = _PINNED.match(line)
        if pinned is not None:
            current = found.setdefault((normalized(pinned[1]), pinned[2]), [])
        current.extend(_HASH.findall(line))
    return found
