"""Hands a call in and fetches its result later, from another program if need be.

    run-in-container serve &
    id=$(python examples/python/later.py submit 1000)
    python examples/python/later.py fetch $id
"""

import sys

from run_in_container import Client


def digits_of_factorial(number):
    import math

    return len(str(math.factorial(number)))


def main(verb, argument):
    with Client() as client:
        if verb == "submit":
            pool = client.open(limits={"time": "10m"})
            # On disk before the id is there: it outlives this program and the daemon. `rerun`:
            # calling this function twice does no harm.
            print(client.submit(pool, digits_of_factorial, int(argument), rerun=True))
        else:
            print(client.fetch(argument).result())
            client.forget(argument)


if __name__ == "__main__":
    main(*sys.argv[1:3])
