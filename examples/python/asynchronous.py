"""Sandboxes from asyncio: calls are awaited, and cancelling one stops it.

    run-in-container serve &
    python examples/python/asynchronous.py
"""

import asyncio
import time

from run_in_container import Executor


async def main():
    loop = asyncio.get_running_loop()
    with Executor(fresh="nothing", max_workers=2) as executor:
        print(await loop.run_in_executor(executor, pow, 2, 10))

        squares = (executor.submit(lambda n: n * n, number) for number in range(5))
        print(await asyncio.gather(*map(asyncio.wrap_future, squares)))

        # The function would run for an hour; it is stopped with its container.
        slow = asyncio.wrap_future(executor.submit(time.sleep, 3600))
        try:
            await asyncio.wait_for(slow, timeout=0.5)
        except asyncio.TimeoutError:
            print("gave up, and the call with it")


if __name__ == "__main__":
    asyncio.run(main())
