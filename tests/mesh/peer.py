"""Servers and clients that share nothing with us: gRPC by grpcio, WebSocket by websockets.
A server's port is the first line of its standard output; a client is given the port of the
mesh and ends with 0 if all that it asked for came as it should."""

import asyncio
import os
import sys
import time
from concurrent import futures

import grpc
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MEGABYTE = os.urandom(1 << 20)


class Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out: every kind of call, and the standard health check."""

    def service(self, call):
        method = call.method.rpartition("/")[2]
        if call.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Down": grpc.unary_stream_rpc_method_handler(
                lambda request, context: (request for _ in range(100))),
            "Up": grpc.stream_unary_rpc_method_handler(
                lambda requests, context: b"".join(requests)),
            "Both": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
            "Slow": grpc.unary_unary_rpc_method_handler(
                lambda request, context: time.sleep(2) or request),
            "Fails": grpc.unary_unary_rpc_method_handler(self.fails),
        }.get(method)

    @staticmethod
    def unary(request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata([("seen", sent.get("said", ""))])
        context.set_trailing_metadata([("last-bin", b"\x00\xff")])
        return request

    @staticmethod
    def fails(request, context):
        context.set_trailing_metadata([("why", "it is not there")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 %")


def grpc_server():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def grpc_client(port):
    options = [("grpc.max_receive_message_length", 4 << 20)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    unary = channel.unary_unary("/shop.Echo/Unary")
    answer, call = unary.with_call(MEGABYTE, metadata=[("said", "hello")], timeout=20)
    assert answer == MEGABYTE
    assert dict(call.initial_metadata())["seen"] == "hello"
    assert dict(call.trailing_metadata())["last-bin"] == b"\x00\xff"
    assert unary(b"", timeout=20) == b""
    assert list(channel.unary_stream("/shop.Echo/Down")(b"x" * 1000, timeout=20)) == [b"x" * 1000] * 100
    parts = [bytes([n]) * 1000 for n in range(100)]
    assert channel.stream_unary("/shop.Echo/Up")(iter(parts), timeout=20) == b"".join(parts)
    # Each answer is there before the next request is made: nothing is held back.
    asked = []

    def requests():
        for part in parts:
            asked.append(part)
            yield part

    for answer in channel.stream_stream("/shop.Echo/Both")(requests(), timeout=20):
        assert answer in asked
    for method, timeout, code in [
        ("Fails", 20, grpc.StatusCode.NOT_FOUND),
        ("Slow", 0.3, grpc.StatusCode.DEADLINE_EXCEEDED),
        ("Nothing", 20, grpc.StatusCode.UNIMPLEMENTED),
    ]:
        try:
            channel.unary_unary(f"/shop.Echo/{method}")(b"", timeout=timeout)
            raise AssertionError(method)
        except grpc.RpcError as error:
            assert error.code() == code, (method, error)
            if method == "Fails":
                assert error.details() == "no such thing: 100 %", error.details()
                assert dict(error.trailing_metadata())["why"] == "it is not there"
    # A service that has no route.
    try:
        channel.unary_unary("/other.Service/Call")(b"", timeout=20)
        raise AssertionError("no route, and an answer")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def grpc_tokens(port, good, poor):
    call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/shop.Echo/Unary")
    assert call(b"x", metadata=[("authorization", f"Bearer {good}")], timeout=20) == b"x"
    for token, code in [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        (good + "A", grpc.StatusCode.UNAUTHENTICATED),
        (poor, grpc.StatusCode.PERMISSION_DENIED),
    ]:
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            call(b"x", metadata=metadata, timeout=20)
            raise AssertionError(code)
        except grpc.RpcError as error:
            assert error.code() == code, (code, error)


async def ws_server():
    async def echo(socket):
        while (message := await socket.recv()) != "leave":
            await socket.send(message)
        await socket.close(4001, "as asked")

    async with serve(echo, "127.0.0.1", 0, max_size=4 << 20) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def ws_client(port):
    async with connect(f"ws://127.0.0.1:{port}/chat", max_size=4 << 20) as socket:
        for message in ["hello", "", "\u00e9" * 70_000, MEGABYTE]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "three ", "parts"])
        assert await socket.recv() == "in three parts"
        assert await asyncio.wait_for(await socket.ping(b"there?"), 20) >= 0
        await socket.send("leave")
        try:
            await socket.recv()
            raise AssertionError("it is still open")
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed
    # Many at once, none of which gets what is another's.
    async def one(n):
        async with connect(f"ws://127.0.0.1:{port}/chat") as socket:
            for m in range(20):
                await socket.send(f"{n} {m}")
                assert await socket.recv() == f"{n} {m}"

    await asyncio.gather(*(one(n) for n in range(50)))


match sys.argv[1:]:
    case ["grpc-server"]:
        grpc_server()
    case ["grpc-client", port]:
        grpc_client(port)
    case ["grpc-tokens", port, good, poor]:
        grpc_tokens(port, good, poor)
    case ["ws-server"]:
        asyncio.run(ws_server())
    case ["ws-client", port]:
        asyncio.run(ws_client(port))
