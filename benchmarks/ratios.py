"""Ratios of measurements taken in turn."""

import statistics
from collections.abc import Sequence


def of_pairs(numerators: Sequence[float], denominators: Sequence[float], digits: int = 2) -> str:
    """Format the median, minimum and maximum of the ratios of pairs.

    >>> of_pairs([4.0, 9.0, 2.0], [2.0, 3.0, 2.0])
    '2.00 (1.00 to 3.00)'
    """
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    numbers = statistics.median(ratios), min(ratios), max(ratios)
    median, low, high = (f"{number:.{digits}f}" for number in numbers)
    return f"{median} ({low} to {high})"
