"""The first function: `run-in-container call examples/functions/hello.py:greet --arg world`."""


def greet(name):
    """Greet somebody by name."""
    return f"hello, {name}"
