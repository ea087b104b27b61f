"""gRPC on asyncio. pip install token-server grpcio, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    python orders.py 127.0.0.1:50051

Methods take and give bytes here; with a .proto, `add_OrdersServicer_to_server` takes their place.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc

from token_server.verify import Verifier
from token_server.verify.adapters.grpc import AsyncProtect, Requirement, current_claims, find_claims

METHODS = {
    "/orders.Orders/Add": Requirement(any_scope=("orders:write", "orders:admin")),
    "/orders.Orders/Greet": Requirement(optional=True),
    "/orders.Orders/Read": Requirement(),
}


async def list_orders(_request: bytes, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield current_claims().client_id.encode()


async def add_order(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return b"yes"


async def greet(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    claims = find_claims()
    return claims.subject.encode() if claims else b"stranger"


async def read_order(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    current_claims().require_that(lambda claims: claims.subject == request.decode())
    return request


async def serve() -> None:
    protect = AsyncProtect(Verifier.from_environment(), "orders:read", methods=METHODS)
    server = grpc.aio.server(interceptors=[protect])
    handlers = {
        "List": grpc.unary_stream_rpc_method_handler(list_orders),
        "Add": grpc.unary_unary_rpc_method_handler(add_order),
        "Greet": grpc.unary_unary_rpc_method_handler(greet),
        "Read": grpc.unary_unary_rpc_method_handler(read_order),
    }
    server.add_registered_method_handlers("orders.Orders", handlers)
    print("port", server.add_insecure_port(sys.argv[1]), flush=True)
    await server.start()
    await server.wait_for_termination()


asyncio.run(serve())
