"""Each example is run as its first lines say, and gives what it promises."""

import subprocess
import sys

from daemon import REPOSITORY, WithDaemon

WAIT_S = 120  # a guard: no test waits for it


class Examples(WithDaemon):
    def run_example(self, path, *arguments):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / path), *arguments], env=self.daemon.variables,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=WAIT_S,
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr.decode()))
        return done.stdout.decode()

    def test_executor(self):
        said = self.run_example("examples/python/executor.py")
        self.assertIn("hello from a sandbox", said)
        self.assertIn("ok in container", said)
        self.assertIn("invalid literal for int()", said)
        self.assertIn("TimedOut - caller must act", said)

    def test_map(self):
        said = self.run_example("examples/python/map.py")
        self.assertEqual(f"168 primes below 1000\n(True, {8 << 20})\n", said)

    def test_asynchronous(self):
        said = self.run_example("examples/python/asynchronous.py")
        self.assertEqual("1024\n[0, 1, 4, 9, 16]\ngave up, and the call with it\n", said)

    def test_later(self):
        identity = self.run_example("examples/python/later.py", "submit", "1000").strip()
        self.assertEqual("2568\n", self.run_example("examples/python/later.py", "fetch", identity))
