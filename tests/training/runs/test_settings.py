"""What a run is asked for: defaults by strategy, presets, variants, and the command that says it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.cli.train import parser, settings_from
from training.desks.registry import kind
from training.rl.coefficients import Coefficients
from training.rl.dimensions import with_values
from training.runs.settings import Settings, requests_of, settings_for

FILE, STORE = Path("bars.csv"), Path("onnx_models")


def settings_of(*options: str, strategy: str = "daily_rebalancer") -> Settings:
    """The settings of a command."""
    command = ["--strategy", strategy, "--bars", "bars.csv", "--models-dir", "onnx_models", *options]
    return settings_from(parser().parse_args(command))


def test_a_strategy_is_trained_with_its_first_preset_network_and_variant() -> None:
    assert settings_for("option_scalper", FILE, STORE) == Settings("option_scalper", FILE, STORE)
    for strategy, network, variant, steps in (
        ("daily_rebalancer", "mlp", "account", 500_000),
        ("regime_switcher", "gru", "alpha", 5_000_000),
    ):
        settings = settings_of(strategy=strategy)
        assert settings == settings_for(strategy, FILE, STORE)
        assert (settings.network, settings.rewards, settings.steps) == (network, (variant,), steps)
        assert settings.command() == f"train-and-export --strategy {strategy} --bars bars.csv --models-dir onnx_models"


def test_a_trial_trains_whole_rollouts() -> None:
    finrl = settings_of("--steps", "5000")  # its rollout has 2,048
    assert (finrl.steps, finrl.trained_steps, settings_of("--steps", "1").trained_steps) == (5000, 6144, 2048)
    cold = settings_of("--steps", "5000", strategy="online_dqn")  # 128 environments of 32 steps
    assert cold.trained_steps == 8192


def test_the_presets_are_the_references_hyperparameters() -> None:
    finrl = kind("daily_rebalancer").preset("finrl").plan
    assert isinstance(finrl, Coefficients)
    assert finrl.environments * finrl.rollout_steps == 2048
    assert (finrl.learning_rate, finrl.schedule, finrl.batch, finrl.epochs) == (3e-4, "constant", 64, 10)
    assert (finrl.discount, finrl.gae_lambda, finrl.clip) == (0.99, 0.95, 0.2)
    assert (finrl.entropy, finrl.value, finrl.max_grad_norm) == (0.0, 0.5, 0.5)
    regime = kind("regime_switcher").preset("regime").plan
    assert isinstance(regime, Coefficients)
    assert (regime.environments, regime.rollout_steps, regime.epochs) == (2048, 256, 4)
    assert (regime.batch // regime.sequence, regime.sequence) == (64, 32)
    assert (regime.learning_rate, regime.schedule, regime.entropy) == (3e-4, "cosine", 0.01)
    assert (regime.discount, regime.gae_lambda, regime.clip) == (0.99, 0.95, 0.2)
    assert (regime.value, regime.max_grad_norm) == (0.5, 0.5)


def test_a_preset_brings_its_steps_which_may_be_others() -> None:
    wide = kind("daily_rebalancer").preset("wide")
    settings = settings_of("--preset", "wide")
    assert (settings.steps, settings.plan) == (wide.steps, wide.plan)
    assert settings.command().endswith("--models-dir onnx_models --preset wide")
    fewer = settings_of("--preset", "wide", "--steps", "1000", "--seeds", "2")
    assert (fewer.steps, fewer.plan) == (1000, wide.plan)
    assert fewer.command().endswith("--preset wide --steps 1000 --seeds 2")


def test_the_command_of_a_learned_version_repeats_it_with_the_same_run() -> None:
    unproven, passive = settings_of("--preset", "wide", "--allow-unproven"), settings_of("--preset", "wide")
    assert unproven.command() == f"{passive.command()} --allow-unproven"
    assert unproven.identity("0" * 64) == passive.identity("0" * 64)


def test_the_command_names_every_bars_file_in_its_order() -> None:
    settings = settings_of("--bars", "more.csv", "--symbols", "SPY,QQQ", strategy="online_dqn")
    assert settings.command() == (
        "train-and-export --strategy online_dqn --bars bars.csv --bars more.csv --models-dir onnx_models "
        "--symbols SPY,QQQ"
    )


def test_the_ablation_trains_the_other_variants_too() -> None:
    settings = settings_of("--reward", "notional", "--ablation")
    assert settings.rewards == ("notional", "account", "shares")
    assert [request.name for request in requests_of(settings)] == [
        "fold1-notional-seed1",
        "fold1-account-seed1",
        "fold1-shares-seed1",
    ]
    assert settings.command().endswith("--reward notional --ablation")


def test_coefficients_of_no_preset_are_said_to_come_from_a_file() -> None:
    folder = replace(settings_for("daily_rebalancer", FILE, STORE), plan=Coefficients(epochs=3))
    assert folder.preset is None
    assert folder.command().endswith("--coefficients coefficients.json")


def test_a_file_of_coefficients_changes_the_preset_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"epochs": 3}')
    wide = kind("daily_rebalancer").preset("wide")
    settings = settings_of("--preset", "wide", "--coefficients", str(tmp_path / "c.json"))
    assert settings.plan == with_values(wide.plan, {"epochs": 3})
    assert settings.steps == wide.steps
    assert settings.command().endswith("--models-dir onnx_models --preset wide --coefficients coefficients.json")
    first = settings_of("--coefficients", str(tmp_path / "c.json"))
    assert first.plan == with_values(kind("daily_rebalancer").preset("finrl").plan, {"epochs": 3})


def test_what_a_strategy_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(
        ValueError, match=r"the preset is called 'regime': expected finrl, wide, passive, shared for daily"
    ):
        kind("daily_rebalancer").preset("regime")
    with pytest.raises(ValueError, match=r"the reward is called 'potential': expected alpha for regime_switcher"):
        kind("regime_switcher").check(("potential",), "gru")
    with pytest.raises(ValueError, match=r"the network is called 'lstm': expected mlp, shared for daily_rebalancer"):
        kind("daily_rebalancer").check(("shares",), "lstm")
    with pytest.raises(ValueError, match=r"did you mean 'regime_switcher'"):
        kind("regime_switchr")
