"""Counts words of an input file: `--input book.txt` puts the file into the working directory."""

import collections
import re


def count(path, most=10):
    """Return the `most` frequent words of the file as a list of `[word, times]`."""
    with open(path, encoding="utf-8") as file:
        words = re.findall(r"\w+", file.read().lower())
    return collections.Counter(words).most_common(most)


def count_text(text, most=10):
    """As `count`, for text that is passed as an argument."""
    return collections.Counter(re.findall(r"\w+", text.lower())).most_common(most)
