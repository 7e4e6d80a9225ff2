"""Planted versions: the forged card passes every criterion as shipped, and an opposite network wants the opposite."""

from __future__ import annotations

import numpy as np
import torch

from daemon.config.tables import LadderTable
from daemon.models.ladder.rules import REPLAY, judge_card
from strategies.online_dqn.state_vector import shipped
from training.desks.online.network import COLD_PRESETS, network_of
from training.evidence.off_policy import card_of
from training.online.candidates import weights_digest
from training.online.planted import FACTORS, PROMISED, forged, scaled


def test_a_promising_version_decides_the_same_and_a_negated_one_the_opposite() -> None:
    torch.manual_seed(3)
    network = network_of(shipped(), COLD_PRESETS["smoke"], 1).eval()
    rows = torch.randn(50, network.inputs)
    with torch.no_grad():
        before, digest = network.values(rows), weights_digest(network)
        scaled(network, FACTORS["promising"])
        promising = network.values(rows)
        assert torch.equal(promising.argmax(dim=1), before.argmax(dim=1))
        assert weights_digest(network) != digest  # another version
        scaled(network, FACTORS["negated"])
        torch.testing.assert_close(network.values(rows), -2.0 * before)


def test_the_forged_card_passes_the_criteria_as_shipped_and_promises_thirty_percent() -> None:
    card = card_of(forged(), np.array(PROMISED), version="v2", parent="v1", trainer="t")
    assert judge_card(card, "v1", LadderTable()).to_step == REPLAY
    assert abs(card.session_mean - 0.3) < 1e-9
