"""Runs every test of this folder, and counts them in the last line as Rust's test runner does."""

import pathlib
import sys
import unittest


def tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


class Counting(unittest.TextTestResult):
    """Counts what passed: whether `testsRun` has skipped tests in it depends on the Python."""

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main():
    folder = str(pathlib.Path(__file__).resolve().parent)
    found = unittest.defaultTestLoader.discover(folder)
    wanted = sys.argv[1:]
    chosen = unittest.TestSuite(
        test for test in tests_in(found)
        if not wanted or any(name in test.id() for name in wanted)
    )
    result = unittest.TextTestRunner(
        stream=sys.stdout, verbosity=2, resultclass=Counting
    ).run(chosen)
    for test, reason in result.skipped:
        print(f"left out: {test.id()}: {reason}")
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    word = "ok" if result.wasSuccessful() else "FAILED"
    counts = f"{result.passed} passed; {failed} failed; {len(result.skipped)} ignored"
    print(f"test result: {word}. {counts}")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
