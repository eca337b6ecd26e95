"""Calls functions in sandboxes of this machine's own Python, and looks at what became of them.

    run-in-container serve &
    python examples/python/executor.py
"""

import os

from run_in_container import Executor, Failure


def visit(name):
    """Says something and tells where it runs. Travels by value: no sandbox has this file."""
    print(f"hello from {name}")
    return {"pid": os.getpid(), "sees": sorted(os.listdir("/"))[:3]}


def main():
    with Executor(limits={"time": "1m"}, fresh="nothing") as executor:
        print("granted:", executor.decision["engine"], executor.decision["fresh"])

        future = executor.submit(visit, "a sandbox")
        print(future.result())
        outcome = future.outcome
        print(f"{outcome.status} in container {outcome.container.id}")

        # A function's own exception is raised as itself, with the remote traceback as its cause.
        try:
            executor.submit(int, "twelve").result()
        except ValueError as error:
            print("the function said:", error)

        # Everything else that can go wrong says what was tried and who can change it.
        try:
            executor.submit_call(loop, deadline_s=1).result()
        except Failure as failure:
            print(type(failure).__name__, "-", failure.must_act, "must act")


def loop():
    while True:
        pass


if __name__ == "__main__":
    main()
