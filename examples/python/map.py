"""Many small calls, and large data that is not copied on its way.

    run-in-container serve &
    python examples/python/map.py
"""

import pickle

from run_in_container import Executor


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def count_zeros(data):
    """Gets a read-only view of memory that the caller has filled; numpy arrays arrive alike."""
    return memoryview(data).readonly, bytes(data).count(0)


def main():
    with Executor(fresh="nothing", max_workers=2) as executor:
        # Fifty numbers travel in each call: one call takes longer than testing one number.
        primes = [
            number
            for number, prime in enumerate(executor.map(is_prime, range(1000), chunksize=50))
            if prime
        ]
        print(len(primes), "primes below 1000")

        data = pickle.PickleBuffer(bytearray(8 << 20))
        print(executor.submit(count_zeros, data).result())


if __name__ == "__main__":
    main()
