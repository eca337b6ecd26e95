"""Uses several processes in one sandbox: they count against its limits, and end with it."""

import concurrent.futures
import multiprocessing


def largest_prime(below):
    """Return the largest prime below a number, or None."""
    for candidate in range(below - 1, 1, -1):
        if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
            return candidate
    return None


def largest_primes(numbers, processes=2):
    """Return `largest_prime` of each number, found in parallel."""
    # Forked children have this module already; spawned ones would have to find it as a file.
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(largest_prime, numbers))
