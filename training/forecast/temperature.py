"""Temperature scaling: one number divides the logits so that probabilities are as sure as they are right.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It changes no predicted class.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.forecast.labels import Float64Array

COLDEST, HOTTEST = 0.05, 20.0
_HALVINGS = 55  # of the span of the logarithm, 6: less than the last digit is left


def best_temperature(logits: Float64Array, classes: NDArray[np.int64]) -> float:
    """The temperature with the least log loss, between 0.05 and 20; the log loss has one least in 1 / temperature.

    Args:
        logits: (n, 3), of rows that trained nothing.
        classes: (n,) of them.

    Raises:
        ValueError: there is no row, or a logit is not finite.
    """
    if not len(classes) or not np.isfinite(logits).all():
        raise ValueError(
            f"{len(classes)} rows to find a temperature on, all finite: {bool(np.isfinite(logits).all())}; expected "
            "labelled rows in the validation year with finite logits: check the features and the labels"
        )
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    taken = float(exact[np.arange(len(classes)), classes].mean())

    def slope(log_cold: float) -> float:
        """Of the log loss along 1 / temperature, in which it is convex."""
        shares = np.exp(exact * math.exp(log_cold))
        return float(((shares * exact).sum(axis=1) / shares.sum(axis=1)).mean()) - taken

    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if slope(middle) < 0.0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2.0)
