"""gRPC: a server interceptor for `grpc.server` and one for `grpc.aio.server`.

Reads the metadata `authorization`; a refusal is UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE,
with the challenge of RFC 6750 3 as trailing metadata `www-authenticate`. Verifies where the method
runs, never in `intercept_service`: that would hold up every other call of the server.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar, copy_context
from typing import Any, TypeAlias

import grpc
import grpc.aio

from token_server.verify.adapters.protection import Protection, Requirement
from token_server.verify.claims import Claims
from token_server.verify.errors import TokenError
from token_server.verify.verifier import Verifier

__all__ = ["PUBLIC", "AsyncProtect", "Protect", "Requirement", "current_claims", "find_claims"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only
_Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Behavior = Callable[..., Any]

_claims: ContextVar[Claims | None] = ContextVar("token_server_claims", default=None)
_END = object()
_STATUSES = {403: grpc.StatusCode.PERMISSION_DENIED, 503: grpc.StatusCode.UNAVAILABLE}

PUBLIC = Requirement(optional=True)
"""For methods that anybody may call, such as health checks. A bad token is refused even there."""


def find_claims() -> Claims | None:
    """The caller's claims inside a method; None for a stranger."""
    return _claims.get()


def current_claims() -> Claims:
    """The caller's claims inside a method; LookupError where there are none."""
    claims = _claims.get()
    if claims is None:
        raise LookupError("no access token: the method is optional, or not behind Protect")
    return claims


class _Guard(Protection):
    """Which method demands what, and the methods wrapped accordingly."""

    def __init__(
        self,
        verifier: Verifier,
        *scopes: str,
        methods: Mapping[str, Requirement] | None = None,
        realm: str | None = None,
        resource_metadata: str | None = None,
    ) -> None:
        """All methods demand `scopes`, but for those in `methods`: by full name
        (`/orders.Orders/Cancel`), or a whole service (`/grpc.health.v1.Health/`)."""
        super().__init__(verifier, realm=realm, resource_metadata=resource_metadata)
        self._default = Requirement(scopes)
        self._methods = dict(methods or {})
        for name in self._methods:
            # A name that never matches would leave its method under the default, unnoticed.
            if not name.startswith("/") or name.count("/") != 2:
                raise ValueError(f"neither /package.Service/Method nor /package.Service/: {name!r}")

    def guard(self, method: str, handler: _Handler) -> _Handler:
        """The same handler, its behavior behind the check that its name demands."""
        service = method[: method.rfind("/") + 1]
        requirement = self._methods.get(method) or self._methods.get(service) or self._default
        behavior: Any
        if handler.request_streaming:
            behavior = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        guarded = functools.wraps(behavior)(
            self._wrap(behavior, requirement, is_streaming=handler.response_streaming)
        )
        rebuild: Any = _REBUILD[handler.request_streaming, handler.response_streaming]
        rebuilt: _Handler = rebuild(
            guarded, handler.request_deserializer, handler.response_serializer
        )
        return rebuilt

    def _wrap(
        self, behavior: _Behavior, requirement: Requirement, *, is_streaming: bool
    ) -> _Behavior:
        # As grpc.aio itself tells them apart: it runs a plain method in a thread.
        if inspect.isasyncgenfunction(behavior):
            return self._wrap_async_stream(behavior, requirement)
        if inspect.iscoroutinefunction(behavior):
            return self._wrap_async(behavior, requirement)
        if is_streaming:
            return self._wrap_stream(behavior, requirement)
        return self._wrap_call(behavior, requirement)

    def _wrap_call(self, behavior: _Behavior, requirement: Requirement) -> _Behavior:
        def guarded(request: Any, context: Any) -> Any:
            # In a context of its own: a thread of the pool must not keep one caller's claims.
            return copy_context().run(in_context, request, context)

        def in_context(request: Any, context: Any) -> Any:
            try:
                _claims.set(self.admit_sync(_authorization_of(context), requirement))
                return behavior(request, context)
            except TokenError as error:
                self._abort(context, error)

        return guarded

    def _wrap_stream(self, behavior: _Behavior, requirement: Requirement) -> _Behavior:
        def guarded(request: Any, context: Any) -> Iterator[Any]:
            own = copy_context()
            try:
                own.run(_claims.set, self.admit_sync(_authorization_of(context), requirement))
                responses = iter(own.run(behavior, request, context))
                while (response := own.run(next, responses, _END)) is not _END:
                    yield response
            except TokenError as error:
                self._abort(context, error)

        return guarded

    def _wrap_async(self, behavior: _Behavior, requirement: Requirement) -> _Behavior:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                # Each call of grpc.aio is a task, and so has a context of its own.
                _claims.set(await self.admit(_authorization_of(context), requirement))
                return await behavior(request, context)
            except TokenError as error:
                await self._abort_async(context, error)

        return guarded

    def _wrap_async_stream(self, behavior: _Behavior, requirement: Requirement) -> _Behavior:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                _claims.set(await self.admit(_authorization_of(context), requirement))
                async for response in behavior(request, context):
                    yield response
            except TokenError as error:
                await self._abort_async(context, error)

        return guarded

    def _abort(self, context: Any, error: TokenError) -> None:
        context.set_trailing_metadata(self._challenge(error))
        context.abort(_status_of(error), error.description)

    async def _abort_async(self, context: Any, error: TokenError) -> None:
        context.set_trailing_metadata(self._challenge(error))
        await context.abort(_status_of(error), error.description)

    def _challenge(self, error: TokenError) -> tuple[tuple[str, str], ...]:
        return (("www-authenticate", self.refusal(error).headers["WWW-Authenticate"]),)


class Protect(_Guard, grpc.ServerInterceptor):
    """`grpc.server(pool, interceptors=[Protect(verifier, "orders:read")])`."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Found],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Found:
        handler = continuation(handler_call_details)
        return None if handler is None else self.guard(handler_call_details.method, handler)


class AsyncProtect(_Guard, grpc.aio.ServerInterceptor):
    """`grpc.aio.server(interceptors=[AsyncProtect(verifier, "orders:read")])`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Found:
        handler = await continuation(handler_call_details)
        return None if handler is None else self.guard(handler_call_details.method, handler)


_REBUILD = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _authorization_of(context: Any) -> list[str]:
    """All values: a second one must be seen to be refused. Names come in lower case."""
    return [value for name, value in context.invocation_metadata() if name == "authorization"]


def _status_of(error: TokenError) -> grpc.StatusCode:
    return _STATUSES.get(error.status, grpc.StatusCode.UNAUTHENTICATED)
