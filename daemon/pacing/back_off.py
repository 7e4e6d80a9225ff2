"""How long to wait after failures in a row."""

from __future__ import annotations

DOUBLINGS_MOST = 16  # a count of failures that goes on for days overflows nothing


def back_off_s(failures: int, first_s: float, most_s: float, random_unit: float = 1.0, *, sure: float = 0.5) -> float:
    """The wait after so many failures (from 1): doubles from `first_s` up to `most_s`.

    The share `sure` of it is fixed. The rest is drawn by `random_unit` in [0, 1), so that many daemons do not come
    back at once; 1.0 draws nothing.
    """
    full_s = min(most_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS_MOST))
    return full_s * (sure + (1.0 - sure) * random_unit)
