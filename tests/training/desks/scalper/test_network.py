"""The network's size, its scaling and its reproducible start."""

from __future__ import annotations

import pytest
import torch

from tests.support.rl.trained import weight_bytes
from training.desks.scalper.network import (
    CLIP,
    FEATURES,
    IDENTITY,
    NETWORKS,
    ActorCritic,
    Policy,
    build,
    fit_scaling,
    parameter_count,
)
from training.rl.layers import Scaling
from training.rl.protocols import Network


def test_actor_and_critic_have_163559_parameters_together() -> None:
    trunk = 460 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64
    heads = (64 * 32 + 32 + 32 * 6 + 6) + (64 * 32 + 32 + 32 * 1 + 1)
    assert parameter_count(ActorCritic(IDENTITY, seed=0)) == trunk + heads == 163_559


def test_the_exported_policy_holds_no_critic() -> None:
    assert parameter_count(ActorCritic(IDENTITY, seed=0).policy) == 163_559 - (64 * 32 + 32 + 32 * 1 + 1)


def test_the_feature_vector_is_not_rectified() -> None:
    vector = Policy(IDENTITY).features(torch.randn(50, 460, generator=torch.Generator().manual_seed(1)))
    assert vector.shape == (50, 64)
    assert bool((vector < 0).any())


def test_market_features_are_scaled_to_their_own_mean_and_deviation_and_position_columns_are_left_alone() -> None:
    market = torch.zeros(3, 20)
    market[:, 4] = torch.tensor([1.0, 2.0, 6.0])  # mean 3, sample deviation sqrt((4 + 1 + 9) / 2) = sqrt(7)
    scaling = fit_scaling(market)
    assert scaling.mean[4] == pytest.approx(3.0)
    assert scaling.scale[4] == pytest.approx(7.0**0.5)
    assert scaling.mean[20:] == (0.0, 0.0, 0.0)
    assert scaling.scale[20:] == (1.0, 1.0, 1.0)


def test_scaling_refuses_features_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="1 are not finite"):
        fit_scaling(torch.tensor([[0.0] * 20, [float("nan")] * 20]))


def test_a_scaled_feature_beyond_the_clip_counts_as_the_clip() -> None:
    scaling = Scaling(mean=(1.0,) * FEATURES, scale=(2.0,) * FEATURES, clip=(CLIP,) * FEATURES)
    policy = Policy(scaling)
    at_the_clip = torch.full((1, 20, 23), 1.0 + 2.0 * CLIP)
    assert torch.equal(policy(at_the_clip), policy(at_the_clip + 1000.0))
    assert not torch.equal(policy(at_the_clip), policy(at_the_clip - 1.0))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_trained_on_prepared_observations_answers_as_what_is_exported_does_on_raw_ones(name: str) -> None:
    scaling = Scaling(mean=(0.5,) * FEATURES, scale=(2.0,) * FEATURES, clip=(CLIP,) * FEATURES)
    network = build(name, scaling, seed=1)
    raw = torch.randn(7, 20, 23, generator=torch.Generator().manual_seed(2)) * 8.0
    logits, values = network(network.prepare(raw))
    assert logits.shape == (7, 6)
    assert values.shape == (7,)
    torch.testing.assert_close(network.policy(raw), logits)
    assert isinstance(network, Network)
    assert not hasattr(network, "start")  # the LSTM's state is zero at every decision, so none is carried


def test_the_recurrent_network_has_60455_parameters() -> None:
    assert parameter_count(build("lstm", IDENTITY, seed=0)) == 60_455


def test_a_network_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="called 'cnn': expected one of mlp, lstm"):
        build("cnn", IDENTITY, seed=0)


def test_the_same_seed_starts_with_the_same_bytes_and_another_seed_with_others() -> None:
    first, again, other = (ActorCritic(IDENTITY, seed) for seed in (5, 5, 6))
    assert weight_bytes(first) == weight_bytes(again) != weight_bytes(other)
