"""A strategy is found by its name, and a mistyped name is answered with the nearest one."""

from __future__ import annotations

import pytest

from strategies.registry import STRATEGIES, daily_strategy, declaration, strategy


def test_every_registered_strategy_carries_its_name_and_is_new_each_time() -> None:
    for name in STRATEGIES:
        assert strategy(name).spec.name == name
        assert strategy(name) is not strategy(name)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"strategy is 'optoin_scalper', .* did you mean 'option_scalper'\?"):
        strategy("optoin_scalper")


def test_a_name_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(
        ValueError, match=r"strategy is 'zzz', expected one of: daily_\w+, option_\w+, regime_\w+; choose one"
    ):
        declaration("zzz")


def test_a_daily_strategy_is_found_by_its_name_and_another_is_refused() -> None:
    for name in ("daily_rebalancer", "regime_switcher"):
        assert daily_strategy(name).spec == strategy(name).spec
    with pytest.raises(ValueError, match=r"'option_scalper', expected one that decides daily: choose one of daily_reb"):
        daily_strategy("option_scalper")
    with pytest.raises(ValueError, match=r"did you mean 'regime_switcher'\?"):
        daily_strategy("regime_switch")
