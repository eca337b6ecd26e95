"""Who is measured: each makes one no-op call and waits for it, or many at once.

A contender that cannot be had here raises `LeftOut` with the reason.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait

from run_in_container import Executor

HERE = pathlib.Path(__file__).resolve().parent
START_S = 60
#: Containers kept ready where each call gets a new one.
STOCK = 2


class LeftOut(Exception):
    pass


def noop():
    pass


def wait_for(path, process):
    end = time.monotonic() + START_S
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > end:
            raise LeftOut(f"{process.args[0]} did not begin to listen at {path}")
        time.sleep(0.02)


def begin(folder, command, path):
    """Starts a program that listens at `path`, and waits until it does."""
    with open(os.path.join(folder, "log"), "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    wait_for(path, process)
    return process


class Contender:
    """One way to call a function. `calls` a round: enough that a clock can tell."""

    calls = 50

    def __init__(self, name):
        self.name = name
        self.folder = tempfile.TemporaryDirectory(prefix="ric-wire-")
        self.process = None

    def call(self):
        self.executor.submit(noop).result()

    def many(self, count):
        wait([self.executor.submit(noop) for _ in range(count)])

    def close(self):
        self.executor.shutdown()
        self.end_process()

    def end_process(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()


class Floor(Contender):
    """The same two Python ends, and between them a relay that only forwards bytes."""

    def __init__(self, name):
        super().__init__(name)
        socket = os.path.join(self.folder.name, "relay.sock")
        command = [sys.executable, str(HERE / "relay.py"), socket]
        self.process = begin(self.folder.name, command, socket)
        self.executor = Executor(socket=socket, max_workers=1)


class Ours(Contender):
    """The daemon, with warm sandboxes."""

    def __init__(self, name, program, fresh, workers=1):
        super().__init__(name)
        socket = os.path.join(self.folder.name, "run", "daemon.sock")
        self.process = begin(self.folder.name, [
            program, "serve", "--socket", socket, "--state", os.path.join(self.folder.name, "tasks"),
        ], socket)
        self.socket = socket
        self.executor = Executor(
            socket=socket, max_workers=workers, fresh=fresh,
            stock=STOCK if fresh == "container" else None,
        )
        if fresh == "container":
            self.calls = 5

    def first_byte_us(self, pause_s):
        """From here to the first thing that the function does, with a pause before it."""
        time.sleep(pause_s)
        begun = time.monotonic_ns()
        return (self.executor.submit(time.monotonic_ns).result() - begun) / 1e3


class Bubblewrap(Contender):
    """A new sandbox and interpreter for each call, by bwrap(1)."""

    calls = 5
    line = [
        "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr",
        "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc",
        "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/python3", "-c", "pass",
    ]

    def __init__(self, name, at_once=1):
        super().__init__(name)
        self.threads = ThreadPoolExecutor(at_once)
        try:
            self.call()
        except (OSError, subprocess.CalledProcessError) as error:
            raise LeftOut(f"bwrap: {error}") from error

    def call(self):
        subprocess.run(self.line, check=True)

    def many(self, count):
        wait([self.threads.submit(self.call) for _ in range(count)])

    def close(self):
        self.threads.shutdown()
        self.folder.cleanup()


class Fork(Contender):
    """What the kernel needs to fork the machine's Python and wait for its end."""

    program = """if True:
        import os, sys, time
        for line in sys.stdin:
            begun = time.perf_counter()
            for _ in range(int(line)):
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            print(time.perf_counter() - begun, flush=True)
    """

    def __init__(self, name):
        super().__init__(name)
        self.forking = subprocess.Popen(
            ["/usr/bin/python3", "-c", self.program], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )

    def call(self):
        self.many(1)

    def many(self, count):
        self.forking.stdin.write(f"{count}\n")
        self.forking.stdin.flush()
        self.forking.stdout.readline()

    def close(self):
        self.forking.stdin.close()
        self.forking.wait()
        self.folder.cleanup()


class ProcessPool(Contender):
    """Python's own, for scale: no isolation."""

    def __init__(self, name):
        super().__init__(name)
        self.executor = ProcessPoolExecutor(1)


class GlobusCompute(Contender):
    """An engine of globus-compute-endpoint, as an endpoint uses it, without a cloud."""

    def __init__(self, name, kind):
        super().__init__(name)
        try:
            from globus_compute_common import messagepack
            from globus_compute_common.messagepack.message_types import Task
            from globus_compute_endpoint import engines
            from globus_compute_endpoint.engines.base import GCFuture
            from globus_compute_sdk.serialize import ComputeSerializer
        except ImportError as error:
            raise LeftOut(f"globus-compute-endpoint is not installed: {error}") from error
        self.future, self.unpack = GCFuture, messagepack.unpack
        self.pack, self.task = messagepack.pack, Task
        serializer = ComputeSerializer()
        parts = [serializer.serialize(part) for part in (noop, (), {})]
        self.buffer = serializer.pack_buffers(parts)
        # Its workers are started by programs of its own environment, and import this module.
        os.environ["PYTHONPATH"] = str(HERE)
        os.environ["PATH"] = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        self.engine = self.make(engines, kind)
        self.engine.start(endpoint_id=uuid.uuid4(), run_dir=self.folder.name)
        self.calls = 20

    def make(self, engines, kind):
        if kind == "pool":
            return engines.ProcessPoolEngine(max_workers=1)
        from parsl.providers import LocalProvider

        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        return engines.GlobusComputeEngine(
            address="127.0.0.1", max_workers_per_node=1, provider=provider, encrypted=False,
        )

    def submit(self):
        identity = uuid.uuid4()
        future = self.future(identity)
        packed = self.pack(self.task(task_id=identity, task_buffer=self.buffer))
        self.engine.submit(future, packed, {})
        return future

    def call(self):
        result = self.unpack(self.submit().result(START_S))
        if result.is_error:
            raise LeftOut(result.data)

    def many(self, count):
        wait([self.submit() for _ in range(count)])

    def close(self):
        self.engine.shutdown()
        self.folder.cleanup()


class DockerExec(Contender):
    """`docker exec` of /bin/true in a container that runs, by a dockerd of our own."""

    calls = 1

    def __init__(self, name):
        super().__init__(name)
        if os.geteuid() != 0:
            raise LeftOut("a dockerd of our own needs root")
        at = lambda part: os.path.join(self.folder.name, part)  # noqa: E731
        self.line = ["docker", "--host", f"unix://{at('docker.sock')}"]
        try:
            self.process = begin(self.folder.name, [
                "dockerd", "--host", f"unix://{at('docker.sock')}", "--data-root", at("data"),
                "--exec-root", at("run"), "--pidfile", at("pid"), "--iptables=false",
                "--bridge=none",
            ], at("docker.sock"))
            self.docker("version")
            os.makedirs(at("root/bin"))
            subprocess.run(["cp", "/bin/busybox", at("root/bin/true")], check=True)
            os.link(at("root/bin/true"), at("root/bin/sleep"))
            pack = ["tar", "-C", at("root"), "-c", "."]
            tar = subprocess.run(pack, check=True, stdout=subprocess.PIPE)
            self.docker("import", "-", "wire", input=tar.stdout)
            run = ["run", "-d", "--network", "none", "--name", "wire", "wire"]
            self.docker(*run, "/bin/sleep", "9999")
        except (OSError, subprocess.CalledProcessError) as error:
            self.end_process()
            raise LeftOut(f"docker: {error}") from error

    def docker(self, *words, **how):
        subprocess.run([*self.line, *words], check=True, capture_output=True, **how)

    def call(self):
        self.docker("exec", "wire", "/bin/true")

    def many(self, count):
        for _ in range(count):
            self.call()

    def close(self):
        try:
            self.docker("rm", "-f", "wire")
        finally:
            self.end_process()
