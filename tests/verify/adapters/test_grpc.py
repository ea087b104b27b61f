"""Every shape of gRPC method, on both servers: protected, with the claims at hand throughout."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.verify import forge
from token_server.verify.adapters.grpc import (
    PUBLIC,
    AsyncProtect,
    Protect,
    Requirement,
    current_claims,
    find_claims,
)

GOOD = (("authorization", f"Bearer {forge.token()}"),)
SHAPES = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


def whose() -> bytes:
    return current_claims().client_id.encode()


def plain_handlers() -> dict[str, Any]:
    def unary_unary(_request: bytes, _context: Any) -> bytes:
        return whose()

    def unary_stream(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield whose()
        yield whose()

    def stream_unary(requests: Iterator[bytes], _context: Any) -> bytes:
        return b"".join([whose() for _ in requests])

    def stream_stream(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield whose()

    return _handlers([unary_unary, unary_stream, stream_unary, stream_stream])


def coroutine_handlers() -> dict[str, Any]:
    async def unary_unary(_request: bytes, _context: Any) -> bytes:
        return whose()

    async def unary_stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield whose()
        yield whose()

    async def stream_unary(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([whose() async for _ in requests])

    async def stream_stream(_requests: Any, context: Any) -> None:
        # The other style of grpc.aio: read and write by hand.
        while await context.read() is not grpc.aio.EOF:
            await context.write(whose())

    return _handlers([unary_unary, unary_stream, stream_unary, stream_stream])


def _handlers(behaviors: list[Callable[..., Any]]) -> dict[str, Any]:
    makers: list[Any] = [
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    ]
    return {
        name: make(behavior) for name, make, behavior in zip(SHAPES, makers, behaviors, strict=True)
    }


@contextmanager
def threaded(protect: Protect, handlers: dict[str, Any]) -> Iterator[tuple[str, Executor]]:
    """The address of a server, and its only thread."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=[protect])
        server.add_registered_method_handlers("orders.Orders", handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", pool
        finally:
            server.stop(None).wait()


@asynccontextmanager
async def on_asyncio(
    protect: AsyncProtect, handlers: dict[str, Any]
) -> AsyncIterator[tuple[str, Executor]]:
    """The same; the thread runs plain methods."""
    pool = ThreadPoolExecutor(1)
    server = grpc.aio.server(pool, interceptors=[protect])
    server.add_registered_method_handlers("orders.Orders", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", pool
    finally:
        await server.stop(None)
        await asyncio.to_thread(pool.shutdown)  # its thread may still wait for this loop


def call(address: str, name: str, metadata: Any = GOOD, *, method: str = "") -> bytes:
    """Two requests where the method takes a stream; all answers joined."""
    with grpc.insecure_channel(address) as channel:
        kinds: dict[str, Any] = {
            "UnaryUnary": channel.unary_unary,
            "UnaryStream": channel.unary_stream,
            "StreamUnary": channel.stream_unary,
            "StreamStream": channel.stream_stream,
        }
        request: Any = iter([b"1", b"2"]) if name.startswith("Stream") else b"1"
        stub = kinds[name](method or f"/orders.Orders/{name}")
        answer = stub(request, metadata=metadata, timeout=20)
        return b"".join(answer) if name.endswith("Stream") else bytes(answer)


EXPECTED = {
    "UnaryUnary": b"web-shop",
    "UnaryStream": b"web-shop" * 2,
    "StreamUnary": b"web-shop" * 2,
    "StreamStream": b"web-shop" * 2,
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_protected_on_threads(name: str) -> None:
    """Claims inside of the method and between its answers; nothing without a token."""
    with threaded(Protect(forge.verifier(), "orders:read"), plain_handlers()) as (address, _):
        assert call(address, name) == EXPECTED[name]
        with pytest.raises(grpc.RpcError) as refused:
            call(address, name, ())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("handlers", [coroutine_handlers, plain_handlers])
async def test_each_shape_is_protected_on_asyncio(
    name: str, handlers: Callable[[], dict[str, Any]]
) -> None:
    """Coroutines, and plain methods that the server runs in threads."""
    protect = AsyncProtect(forge.verifier(), "orders:read")
    async with on_asyncio(protect, handlers()) as (address, _):
        assert await asyncio.to_thread(call, address, name) == EXPECTED[name]
        with pytest.raises(grpc.RpcError) as refused:
            await asyncio.to_thread(call, address, name, ())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def insist(_request: bytes, _context: Any) -> bytes:
    try:
        return whose()
    except LookupError:
        return b"nobody"


@pytest.mark.parametrize("name", SHAPES)
def test_thread_of_a_server_forgets_its_last_caller(name: str) -> None:
    """Whatever else runs in that thread must not act for a caller who has gone."""
    with threaded(Protect(forge.verifier()), plain_handlers()) as (address, pool):
        assert call(address, name) == EXPECTED[name]
        assert pool.submit(find_claims).result(20) is None


@pytest.mark.parametrize("name", SHAPES)
async def test_thread_for_plain_methods_forgets_its_last_caller(name: str) -> None:
    """As on the other server."""
    async with on_asyncio(AsyncProtect(forge.verifier()), plain_handlers()) as (address, pool):
        assert await asyncio.to_thread(call, address, name) == EXPECTED[name]
        assert await asyncio.wrap_future(pool.submit(find_claims)) is None


def test_requirement_of_a_service_holds_for_its_methods_but_for_those_named() -> None:
    """Health checks are open as a whole; the exact name wins over the service."""
    methods = {
        "/grpc.health.v1.Health/": PUBLIC,
        "/grpc.health.v1.Health/Watch": Requirement(("orders:admin",)),
    }
    protect = Protect(forge.verifier(), "orders:read", methods=methods)
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[protect])
    handler: Any = grpc.unary_unary_rpc_method_handler(insist)
    for service in ("grpc.health.v1.Health", "orders.Orders"):
        server.add_registered_method_handlers(service, {"Check": handler, "Watch": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def outcome(method: str, metadata: Any) -> Any:
        try:
            return call(f"127.0.0.1:{port}", "UnaryUnary", metadata, method=method)
        except grpc.RpcError as error:
            return error.code()

    try:
        assert outcome("/grpc.health.v1.Health/Check", ()) == b"nobody"
        assert outcome("/grpc.health.v1.Health/Watch", GOOD) == grpc.StatusCode.PERMISSION_DENIED
        assert outcome("/orders.Orders/Check", GOOD) == b"web-shop"
        assert outcome("/orders.Orders/Check", ()) == grpc.StatusCode.UNAUTHENTICATED
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("name", ["List", "orders.Orders/List", "/orders.Orders", "/a/b/c", ""])
def test_name_that_matches_no_method_fails_the_start(name: str) -> None:
    """Its rule would be silently without effect."""
    with pytest.raises(ValueError, match="Service/Method"):
        Protect(forge.verifier(), methods={name: PUBLIC})


def test_claims_outside_of_a_protected_call_are_an_error() -> None:
    """`current_claims` never gives None."""
    assert find_claims() is None
    with pytest.raises(LookupError):
        current_claims()
