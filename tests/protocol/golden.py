"""Writes the golden frames: `golden.py --write` makes each `NAME.bin` from its `NAME.json`.

A third implementation of docs/protocol.md, on purpose: it shares no line with `worker.py` or the
Rust crate, so neither can be wrong in the same way. Without `--write` it only compares.

A description has the fields of the frame, and may say what was done to it afterwards: `damage`
flips one bit, and `detected` names what a reader must call corrupt or unknown.
"""

import hashlib
import json
import pathlib
import struct
import sys
import zlib

HERE = pathlib.Path(__file__).parent


def payload_of(frame):
    """Returns the payload: text, hex digits, or a pattern that is repeated."""
    if "payload_hex" in frame:
        return bytes.fromhex(frame["payload_hex"])
    if "payload_repeated" in frame:
        return frame["payload_repeated"]["text"].encode() * frame["payload_repeated"]["times"]
    return frame["payload"].encode()


def encode(frame):
    payload, metadata = payload_of(frame), frame["metadata"].encode()
    descriptor = frame["carriage"] == "descriptor"
    header = struct.pack(
        ">4sHBB16sIQ32s",
        b"\x89RIC", frame["version"], frame["kind"], descriptor, bytes.fromhex(frame["task"]),
        len(metadata), len(payload), hashlib.sha256(payload).digest(),
    )
    header += struct.pack(">I", zlib.crc32(header))
    header += struct.pack(">I", zlib.crc32(header + metadata))
    data = bytearray(header + metadata + (b"\0" if descriptor else payload))
    if "damage" in frame:
        data[frame["damage"]["byte"]] ^= 1 << frame["damage"]["bit"]
    return bytes(data)


def descriptions():
    return sorted(HERE.glob("*.json"))


def main():
    for path in descriptions():
        data, golden = encode(json.loads(path.read_text())), path.with_suffix(".bin")
        if "--write" in sys.argv:
            golden.write_bytes(data)
        elif golden.read_bytes() != data:
            sys.exit("%s is not what %s describes" % (golden.name, path.name))


if __name__ == "__main__":
    main()
