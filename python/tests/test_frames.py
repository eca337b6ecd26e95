"""Frames: the golden ones are read and written, and damage is found wherever it is."""

import importlib.util
import json
import os
import socket
import threading
import unittest

from run_in_container import frame, payload

from scripted import REPOSITORY, Peer, encode, sealed

PROTOCOL = REPOSITORY / "tests" / "protocol"


def load_golden():
    spec = importlib.util.spec_from_file_location("golden", PROTOCOL / "golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = load_golden()


def read_all(data, chunk_bytes=None, descriptor=None):
    """Reads everything in ``data`` as a client does; returns the frames and what ended them."""
    ours, theirs = socket.socketpair()

    def write():
        with theirs:
            if descriptor is not None:
                Peer(theirs).send_descriptor(data[:-1], descriptor)
                return
            size = chunk_bytes or len(data) or 1
            try:
                for at in range(0, len(data), size):
                    theirs.sendall(data[at : at + size])
            except BrokenPipeError:
                pass  # the reader has seen enough

    writer = threading.Thread(target=write)
    writer.start()
    reader, frames = frame.Reader(ours), []
    try:
        while True:
            frames += reader.receive()
    except (EOFError, frame.Fault) as end:
        return frames, end
    finally:
        ours.close()
        reader.close()
        writer.join()


class GoldenFrames(unittest.TestCase):
    def cases(self):
        for path in golden.descriptions():
            with self.subTest(path.stem):
                yield json.loads(path.read_text()), path.with_suffix(".bin").read_bytes()

    def test_golden_frames_are_read(self):
        for case, data in self.cases():
            descriptor = None
            if case["carriage"] == "descriptor":
                descriptor = sealed(golden.payload_of(case))
            frames, end = read_all(data, descriptor=descriptor)
            if case.get("detected") in ("header", "version"):
                self.assertIsInstance(end, frame.Fault)
                self.assertEqual(end.what == "header", case["detected"] == "header")
                self.assertEqual([], frames)
                continue
            self.assertIsInstance(end, EOFError)
            (read,) = frames
            if "detected" in case:
                expected = "metadata" if case["detected"] == "metadata" else "payload"
                self.assertEqual(expected, read.damage[0])
                continue
            self.assertIsNone(read.damage)
            self.assertEqual(case["kind"], read.kind)
            self.assertEqual(bytes.fromhex(case["task"]), read.task)
            self.assertEqual(case["metadata"].encode(), read.metadata)
            self.assertEqual(golden.payload_of(case), bytes(read.payload))

    def test_golden_frames_are_written(self):
        for case, data in self.cases():
            if "damage" in case or case["version"] != 1:
                continue
            content = golden.payload_of(case)
            sent = payload.Payload((content,))
            descriptor = case["carriage"] == "descriptor"
            written = frame.encode(
                case["kind"], bytes.fromhex(case["task"]), case["metadata"].encode(),
                sent.size, sent.digest, descriptor,
            )
            self.assertEqual(data, written + (b"\0" if descriptor else content))


class Damage(unittest.TestCase):
    """T104 and T105: nothing that was damaged on its way is taken for what was sent."""

    FRAME = encode(frame.RESULT, bytes(range(16)), {"encoding": "json"}, b'"hello, world"')

    def test_every_flipped_bit_is_found(self):
        for bit in range(len(self.FRAME) * 8):
            data = bytearray(self.FRAME)
            data[bit // 8] ^= 1 << bit % 8
            frames, end = read_all(bytes(data))
            is_found = isinstance(end, frame.Fault) or any(one.damage for one in frames)
            self.assertTrue(is_found, f"bit {bit}")

    def test_frame_behind_a_damaged_payload_is_read(self):
        data = bytearray(self.FRAME + self.FRAME)
        data[len(self.FRAME) - 1] ^= 1
        frames, _ = read_all(bytes(data))
        self.assertEqual(["payload", None], [one.damage and one.damage[0] for one in frames])

    def test_stream_that_is_cut_anywhere_ends(self):
        for size in range(len(self.FRAME)):
            frames, end = read_all(self.FRAME[:size])
            self.assertEqual([], frames)
            self.assertIsInstance(end, EOFError)
            self.assertEqual(size > 0, "into a frame" in str(end))

    def test_frames_that_come_in_pieces_are_read(self):
        large = encode(frame.RESULT, bytes(16), {}, bytes(300_000))
        for chunk_bytes in (1, 7, 75, 76, 77, len(self.FRAME) + 1):
            frames, _ = read_all(self.FRAME * 3, chunk_bytes)
            self.assertEqual([b'"hello, world"'] * 3, [one.payload for one in frames])
        frames, _ = read_all(self.FRAME + large + self.FRAME, 4093)
        self.assertEqual([14, 300_000, 14], [len(one.payload) for one in frames])

    def test_lengths_above_their_maxima_end_the_stream(self):
        for size in (frame.PAYLOAD_BYTES_MAX + 1, 1 << 63):
            _, end = read_all(encode(frame.RESULT, bytes(16), {}, size=size))
            self.assertIn("longer than allowed", str(end))
        too_long = encode(frame.RESULT, bytes(16), b"{" + b" " * frame.METADATA_BYTES_MAX + b"}")
        _, end = read_all(too_long)
        self.assertIn("longer than allowed", str(end))

    def test_unknown_kinds_and_flags_end_the_stream(self):
        for wrong in ({"kind": 99}, {"flags": 2}):
            fields = {"kind": frame.RESULT, "flags": 0, **wrong}
            _, end = read_all(encode(fields["kind"], bytes(16), {}, flags=fields["flags"]))
            self.assertIsInstance(end, frame.Fault)


class Descriptors(unittest.TestCase):
    """A payload in memory is used only if nobody can change it any more."""

    def read(self, descriptor, size):
        head = encode(frame.RESULT, bytes(16), {}, flags=1, size=size) + b"\0"
        return read_all(head, descriptor=descriptor)

    def open_descriptors(self):
        return set(os.listdir("/proc/self/fd"))

    def test_memory_without_seals_is_refused(self):
        for seals in (0x2 | 0x4, 0x4 | 0x8, 0x2 | 0x8):
            _, end = self.read(sealed(b"x" * 8, seals), 8)
            self.assertIn("not sealed", str(end))

    def test_memory_of_another_size_is_refused(self):
        for size in (7, 9, 1 << 20):
            _, end = self.read(sealed(b"x" * 8), size)
            self.assertIn("does not hold", str(end))

    def test_other_descriptors_are_refused(self):
        _, end = self.read(os.open("/dev/zero", os.O_RDONLY), 8)
        self.assertIn("not memory", str(end))

    def test_carrier_without_a_descriptor_ends_the_stream(self):
        _, end = read_all(encode(frame.RESULT, bytes(16), {}, flags=1, size=8) + b"\0")
        self.assertIn("did not come", str(end))

    def test_descriptors_that_nobody_asked_for_are_closed(self):
        before = self.open_descriptors()
        for _ in range(10):
            frames, _ = read_all(Damage.FRAME, descriptor=sealed(b"unasked"))
            del frames
        self.assertEqual(before, self.open_descriptors())

    def test_large_payloads_are_not_copied(self):
        before = self.open_descriptors()
        content = b"y" * (2 << 20)
        head = encode(frame.RESULT, bytes(16), {}, content, flags=1) + b"\0"
        (read,), end = read_all(head, descriptor=payload_descriptor(content))
        self.assertIsInstance(read.payload, memoryview)
        self.assertTrue(read.payload.readonly)
        self.assertEqual(content, bytes(read.payload))
        del read, end  # whose traceback holds the frames
        self.assertEqual(before, self.open_descriptors())


def payload_descriptor(content):
    sent = payload.Payload((content,))
    return os.dup(sent.descriptor)


if __name__ == "__main__":
    unittest.main()
