"""What an executor is asked for, as it goes to the daemon."""

import json
import os
import pathlib
import tempfile
import unittest
from unittest import mock

from run_in_container import Executor, Mount
from run_in_container.opening import MOUNTS_MAX, Opening, parse_limits
from run_in_container.places import default_socket, usual_sockets

import scripted
from scripted import DECISION, OPENED, Daemon, encode


def fields(**wishes):
    opening = Opening(**wishes)
    opening.close()
    return json.loads(opening.metadata)


class Wishes(unittest.TestCase):
    def test_what_is_not_asked_for_is_not_said(self):
        self.assertEqual({}, fields())

    def test_limits_have_units(self):
        limits = {"memory": "2GiB", "cpus": 0.5, "pids": 64, "time": "1h30m"}
        self.assertEqual(
            {"memory_bytes": 2 << 30, "cpus_milli": 500, "pids": 64, "time_ms": 5_400_000},
            parse_limits(limits),
        )
        plain = parse_limits({"memory": 5, "time": 0.25})
        self.assertEqual({"memory_bytes": 5, "time_ms": 250}, plain)

    def test_limits_that_cannot_be_meant_are_refused(self):
        for limits in (
            {"memory": "2Gb"}, {"memory": "GiB"}, {"memory": 0}, {"memory": -1}, {"ram": 1},
            {"time": ""}, {"time": "10"}, {"time": "1m1h"}, {"cpus": "many"}, {"pids": None},
        ):
            with self.subTest(limits), self.assertRaisesRegex(ValueError, "limits"):
                parse_limits(limits)

    def test_environments_are_named_or_said(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write("name: here\n")
            file.flush()
            said = fields(environment=["numpy", {"name": "own"}, pathlib.Path(file.name)])
            self.assertEqual([
                {"name": "numpy"},
                {"text": '{"name": "own"}', "file_name": "own.yaml"},
                {"text": "name: here\n", "file_name": file.name},
            ], said["environments"])
        self.assertEqual([{"name": "numpy"}], fields(environment="numpy")["environments"])

    def test_secrets_travel_as_sealed_memory_behind_the_mounts(self):
        opening = Opening(mounts=["/usr:/data"], secrets={"token": "t0p", "key": b"\0k"})
        self.addCleanup(opening.close)
        self.assertEqual(["token", "key"], json.loads(opening.metadata)["secrets"])
        self.assertNotIn(b"t0p", opening.metadata)
        self.assertEqual(3, len(opening.descriptors))
        held = [os.pread(descriptor, 9, 0) for descriptor in opening.descriptors[1:]]
        self.assertEqual([b"t0p", b"\0k"], held)
        with self.assertRaises(OSError):
            os.pwrite(opening.descriptors[1], b"x", 0)

    def test_flags_keep_their_names(self):
        said = fields(image="host:", fresh="container", engine="native", max_workers=3, tenant="t")
        self.assertEqual({
            "image": "host:", "fresh": "container", "engine": "native", "containers_most": 3,
            "tenant": "t",
        }, said)

    def test_nonsense_is_refused_by_name(self):
        for wishes in (
            {"fresh": "thread"}, {"max_workers": 0}, {"variables": {"A": 1}},
            {"mounts": ["/data"]}, {"mounts": ["/a:/b:rx"]},
            {"mounts": ["/:/x"] * (MOUNTS_MAX + 1)},
        ):
            with self.subTest(wishes), self.assertRaises(ValueError):
                fields(**wishes)

    def test_mounts_are_opened_here_and_closed(self):
        before = os.listdir("/proc/self/fd")
        opening = Opening(mounts=["/usr:/data", Mount("/etc", "/conf", read_only=False)])
        self.assertEqual(
            [os.stat("/usr").st_ino, os.stat("/etc").st_ino],
            [os.fstat(descriptor).st_ino for descriptor in opening.descriptors],
        )
        self.assertEqual([
            {"asked": "/usr", "target": "/data", "access": "read-only"},
            {"asked": "/etc", "target": "/conf", "access": "read-write"},
        ], json.loads(opening.metadata)["mounts"])
        opening.close()
        with self.assertRaises(FileNotFoundError):
            Opening(mounts=["/usr:/data", "/nonexistent:/x"])
        self.assertEqual(before, os.listdir("/proc/self/fd"))

    def test_mounts_travel_as_descriptors_behind_the_metadata(self):
        seen = {}

        def script(peer):
            import array
            import socket

            peer.greet()
            header = peer._exactly(76)
            fields = scripted.HEADER.unpack(header[:68])
            peer._exactly(fields[5])
            for _ in range(2):
                data, ancillary, _, _ = peer.stream.recvmsg(1, socket.CMSG_SPACE(4))
                (descriptor,) = array.array("i", ancillary[0][2])
                seen[os.fstat(descriptor).st_ino] = data
                os.close(descriptor)
            self.assertIn(b"cloudpickle/__init__.py", peer._exactly(fields[6]))
            peer.send(encode(OPENED, fields[4], DECISION))
            peer.read()

        with Daemon(script) as daemon:
            with Executor(socket=daemon.socket, mounts=["/usr:/a", "/etc:/b:rw"]):
                pass
        self.assertEqual({os.stat("/usr").st_ino: b"\0", os.stat("/etc").st_ino: b"\0"}, seen)


class Sockets(unittest.TestCase):
    NODE = "/run/run-in-container/daemon.sock"

    def test_the_one_that_is_named_is_the_only_one(self):
        variables = {"RUN_IN_CONTAINER_SOCKET": "/s", "XDG_RUNTIME_DIR": "/r"}
        self.assertEqual(["/s"], usual_sockets(variables, 7))

    def test_the_users_own_comes_before_the_nodes(self):
        own = "/r/run-in-container/daemon.sock"
        self.assertEqual([own, self.NODE], usual_sockets({"XDG_RUNTIME_DIR": "/r"}, 7))
        usual = "/run/user/7/run-in-container/daemon.sock"
        for variables in ({}, {"XDG_RUNTIME_DIR": "r"}, {"XDG_RUNTIME_DIR": ""}):
            self.assertEqual([usual, self.NODE], usual_sockets(variables, 7))

    def test_the_nodes_is_roots(self):
        self.assertEqual([self.NODE], usual_sockets({}, 0))

    def test_the_first_that_exists_is_used(self):
        with mock.patch("os.geteuid", return_value=7), tempfile.TemporaryDirectory() as folder:
            self.assertTrue(default_socket({"XDG_RUNTIME_DIR": folder}).startswith(folder))
            with mock.patch("os.path.exists", side_effect=lambda path: path == self.NODE):
                self.assertEqual(self.NODE, default_socket({"XDG_RUNTIME_DIR": folder}))


if __name__ == "__main__":
    unittest.main()
