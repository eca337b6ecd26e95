"""The floor of the wire: a relay that does for a client what the daemon does, and nothing more.

It answers HELLO and OPEN, starts `runtime/worker.py` without any sandbox, and from then on a small
C program (`forward.c`) forwards bytes and descriptors between the two. What a call costs through it
is what the two Python ends cost; what it costs through the daemon beyond that is the daemon.

    relay.py SOCKET [--worker FILE] [--python PROGRAM]

One connection at a time, one pool, one worker; prints `ready` once it listens. For measuring, never
for work: nothing is isolated here.
"""

import argparse
import json
import os
import pathlib
import socket
import struct
import subprocess
import tempfile
import zlib
from hashlib import sha256

HELLO, MODULES, READY, OPEN, OPENED = 1, 9, 10, 16, 17
HEADER = struct.Struct(">4sHBB16sIQ32s")
HERE = pathlib.Path(__file__).resolve().parent
WORKER = pathlib.Path(os.environ.get("RIC_WORKER", HERE.parents[1] / "runtime" / "worker.py"))


def encode(kind, task, fields, payload=b""):
    metadata = json.dumps(fields).encode()
    header = HEADER.pack(
        b"\x89RIC", 1, kind, 0, task, len(metadata), len(payload), sha256(payload).digest()
    )
    header += struct.pack(">I", zlib.crc32(header))
    return header + struct.pack(">I", zlib.crc32(header + metadata)) + metadata + payload


def read_exactly(stream, size):
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_frame(stream):
    """Reads a frame whose payload is in the stream, and believes it."""
    header = read_exactly(stream, 76)
    _, _, kind, _, task, metadata_bytes, payload_bytes, _ = HEADER.unpack(header[:68])
    metadata = json.loads(read_exactly(stream, metadata_bytes) or b"{}")
    return kind, task, metadata, read_exactly(stream, payload_bytes)


def start_worker(worker, python, modules):
    """Returns the worker's process and its socket; `modules` are an OPEN's, passed on."""
    ours, theirs = socket.socketpair()

    def place():
        os.dup2(theirs.fileno(), 3, inheritable=True)

    process = subprocess.Popen(
        [python, worker], stdin=subprocess.DEVNULL, pass_fds=(3,), preexec_fn=place
    )
    theirs.close()
    # READY: a warm worker reads ahead, as the daemon's do.
    hello = {"version_lowest": 1, "version_highest": 1, "ready": True}
    ours.sendall(encode(HELLO, bytes(16), hello) + encode(MODULES, bytes(16), {}, modules))
    assert [read_frame(ours)[0] for _ in range(2)] == [HELLO, READY]
    return process, ours


def open_pool(client, worker, python):
    """Answers HELLO and OPEN of a client, and returns its worker."""
    kind, task, _, _ = read_frame(client)
    assert kind == HELLO
    client.sendall(encode(HELLO, task, {
        "version_lowest": 1, "version_highest": 1, "daemon": "relay", "pid": os.getpid(),
    }))
    kind, task, _, modules = read_frame(client)
    assert kind == OPEN
    process, stream = start_worker(worker, python, modules)
    client.sendall(encode(OPENED, task, {
        "pool": 1, "fresh": "nothing", "engine": "none", "image": "", "enforced": {}, "bounds": {},
        "containers_most": 1,
    }))
    return process, stream


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("socket")
    parser.add_argument("--worker", default=str(WORKER))
    parser.add_argument("--python", default="/usr/bin/python3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        forward = os.path.join(folder, "forward")
        subprocess.run(["cc", "-O2", "-o", forward, str(HERE / "forward.c")], check=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.socket)
        listener.listen()
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            with client:
                serve(client, forward, options)


def serve(client, forward, options):
    try:
        process, worker = open_pool(client, options.worker, options.python)
    except (EOFError, ConnectionError):
        return
    ends = client.fileno(), worker.fileno()
    try:
        subprocess.run([forward, *map(str, ends)], pass_fds=ends)
    finally:
        worker.close()
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
