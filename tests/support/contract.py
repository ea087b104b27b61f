"""The OpenAPI document as a judge: does this answer keep what the document promises?

Stricter than the document itself: a member that no schema names is a failure, so that nothing
is sent that is not described.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_BASE = "urn:openapi"


@dataclass(slots=True)
class Contract:
    """Checks answers, and keeps which of the documented ones it has seen."""

    document: dict[str, Any]
    seen: set[tuple[str, int]] = field(default_factory=set)
    _registry: Any = field(init=False)
    _validators: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        strict = _closed(json.loads(json.dumps(self.document)))
        resource = Resource.from_contents(strict, default_specification=DRAFT202012)
        self._registry = Registry().with_resource(_BASE, resource)

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path template and operation of everything."""
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                yield method.upper(), path, operation

    def check(self, answer: httpx.Response) -> httpx.Response:
        """Fails unless the answer is one of those documented for its request; returns it."""
        request = answer.request
        pointer, operation = self._find(request.method, request.url.path)
        status = str(answer.status_code)
        assert status != "500", "a failure of the server keeps no promise"
        assert status in operation["responses"], (request.method, request.url.path, status)
        documented = operation["responses"][status]
        self.seen.add((operation["operationId"], answer.status_code))
        self._check_headers(answer, documented)
        content = documented.get("content")
        if content is None:
            assert answer.content == b""
            return answer
        media_type = answer.headers["content-type"]
        assert media_type in content, (media_type, list(content))
        escaped = media_type.replace("/", "~1")
        body = answer.json() if "json" in media_type else answer.text
        self.validate(body, f"{pointer}/responses/{status}/content/{escaped}/schema")
        return answer

    def validate(self, instance: Any, pointer: str) -> None:
        """`pointer` names a schema of the document (RFC 6901, beginning with a slash)."""
        if pointer not in self._validators:
            self._validators[pointer] = jsonschema.Draft202012Validator(
                {"$ref": f"{_BASE}#{pointer}"},
                registry=self._registry,
                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
            )
        self._validators[pointer].validate(instance)

    def _find(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        for template, item in self.document["paths"].items():
            if _matches(template, path) and method.lower() in item:
                escaped = template.replace("~", "~0").replace("/", "~1")
                escaped = escaped.replace("{", "%7B").replace("}", "%7D")
                return f"/paths/{escaped}/{method.lower()}", item[method.lower()]
        raise AssertionError(f"{method} {path} is not documented")

    def _check_headers(self, answer: httpx.Response, documented: dict[str, Any]) -> None:
        for name, reference in documented["headers"].items():
            part = reference["$ref"].rpartition("/")[2]
            header = self.document["components"]["headers"][part]
            if header.get("required") or name in answer.headers:
                assert name in answer.headers, (name, dict(answer.headers))
                self.validate(answer.headers[name], f"/components/headers/{part}/schema")


def _matches(template: str, path: str) -> bool:
    ours, theirs = template.split("/"), path.split("/")
    return len(ours) == len(theirs) and all(
        mine == other or (mine.startswith("{") and other != "")
        for mine, other in zip(ours, theirs, strict=True)
    )


def _closed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with every object closed, but for those that others extend by `allOf`."""
    extended = {
        reference["$ref"].rpartition("/")[2]
        for part in _objects(document)
        for reference in part.get("allOf", ())
    }
    schemas = document["components"]["schemas"]
    open_ones = [id(schemas[name]) for name in extended]
    for part in _objects(document):
        if isinstance(part.get("properties"), dict) and id(part) not in open_ones:
            part.setdefault("unevaluatedProperties", False)
    return document


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in list(part.values()):
            yield from _objects(value)
    elif isinstance(part, list):
        for value in part:
            yield from _objects(value)
