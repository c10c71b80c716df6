"""Delays between tries, as pure functions."""

from __future__ import annotations


def exponential(tries: int, first_s: float, most_s: float) -> float:
    """The wait after the `tries`-th failure, from 1: doubling from `first_s` up to `most_s`."""
    return min(most_s, first_s * 2.0 ** min(tries - 1, 30))
