"""The ensemble is the weighted mean of any number of members, with weights that validation chose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from training.desks.forecast.graph import Ensemble, choose_weights, simplex


class Always(nn.Module):
    def __init__(self, action: float) -> None:
        super().__init__()
        self.action = action

    def forward(self, observations: Tensor) -> Tensor:
        return torch.full((observations.shape[0], 1), self.action)


def test_without_weights_all_members_count_the_same() -> None:
    mean, members = Ensemble([Always(1.0), Always(0.0), Always(-0.4)])(torch.zeros(2, 3))
    assert mean.flatten().tolist() == pytest.approx([0.2, 0.2])
    assert members.squeeze(2).tolist() == [[1.0, 1.0], [0.0, 0.0], [pytest.approx(-0.4)] * 2]


def test_members_count_by_their_weights() -> None:
    mean, _ = Ensemble([Always(1.0), Always(-1.0)], [3.0, 1.0])(torch.zeros(1, 3))
    assert mean.tolist() == [[0.5]]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, 1.0, 1.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="the weights of 2 members"):
        Ensemble([Always(1.0), Always(0.0)], weights)


def test_no_member_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])


def test_weights_are_tried_in_even_steps_equal_ones_first() -> None:
    assert simplex(2, 4) == [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.0, 1.0), (1.0, 0.0)]
    assert len(simplex(3, 4)) == 15
    assert all(sum(weights) == 1.0 for weights in simplex(3, 4))


def test_the_best_on_validation_is_chosen_and_on_a_tie_the_most_equal() -> None:
    def peak(weights: Sequence[float]) -> float:
        return -abs(weights[0] - 0.75)

    assert choose_weights(peak, 2) == ((0.75, 0.25), 0.0)
    assert choose_weights(lambda _: 7.0, 2) == ((0.5, 0.5), 7.0)
