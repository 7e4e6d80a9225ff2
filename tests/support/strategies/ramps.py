"""Indicators of straight ramps, by hand."""

from __future__ import annotations

RAMP_INDICATORS = (
    7.0,  # EMAs of n bars lag a ramp by (n - 1) / 2: 12.5 - 5.5
    100.0,  # every move is up
    (499 - 489.5) / (0.015 * 5),  # typical price above its mean, over 0.015 times the mean deviation of 20 bars
    100.0,  # only upward movement
    489.5,
    474.5,
    399.5,
    489.5 + 2 * (399 / 12) ** 0.5,  # the variance of 20 numbers one apart is (20^2 - 1) / 12
    489.5,
    489.5 - 2 * (399 / 12) ** 0.5,
    1.5,  # from the previous close to the high
    -100 * 0.5 / 14,  # highest 499.5, lowest 485.5
    100 * 13.5 / 14,
)
