"""A coroutine: the worker runs it. It serves and fetches a page over the sandbox's own loopback."""

import asyncio


async def answer(reader, writer):
    """Serve one request with a fixed page."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello from inside\n")
    await writer.drain()
    writer.close()


async def page():
    """Start a server, fetch from it, and return what it said."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        body = await reader.read()
        writer.close()
        return body.decode().split("\r\n\r\n")[1].strip()
