"""From logits to a choice: softmax at a temperature, then argmax. Shared by live and evaluation.

Pure Python float64, nothing random. Invariant: the probabilities sum to 1, and a tie goes to the lowest index.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum

from strategies.kit.contract import Choice

SAMPLING = "probabilities = softmax(logits / temperature); action = argmax, ties to the lowest index"
"""How logits become an action, in words; part of the contract hash."""


def softmax(logits: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return exp(x / T) / sum exp(x / T) for each logit x, shifted by the largest so that nothing overflows.

    `ValueError` when there is no logit or the temperature is not positive.
    """
    if not logits:
        raise ValueError("logits are empty, expected one for each action of the spec: check the model's output shape")
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0: correct it in the spec")
    top = max(logits)
    weights = [exp((x - top) / temperature) for x in logits]
    total = fsum(weights)
    return tuple([w / total for w in weights])


def choose(logits: Sequence[float], temperature: float) -> Choice:
    """Return the most probable action, its probability as confidence, and all probabilities. Errors as `softmax`."""
    probabilities = softmax(logits, temperature)
    action = logits.index(max(logits))  # the first of equals
    return Choice(probabilities=probabilities, action=action, confidence=probabilities[action])
