"""A module that no sandbox has: what is in it travels by value."""

FACTOR = 3


class Point:
    def __init__(self, x):
        self.x = x


def triple(number):
    return number * FACTOR


def six_times(number):
    return triple(number) * 2
