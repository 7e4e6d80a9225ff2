"""A strategy is found by its name, and a mistyped name is answered with the nearest one."""

from __future__ import annotations

import pytest

from strategies.registry import STRATEGIES, declaration, strategy


def test_every_registered_strategy_carries_its_name_and_is_new_each_time() -> None:
    for name in STRATEGIES:
        assert strategy(name).spec.name == name
        assert strategy(name) is not strategy(name)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"strategy is 'optoin_scalper', .* did you mean 'option_scalper'\?"):
        strategy("optoin_scalper")


def test_a_name_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(ValueError, match=r"strategy is 'zzz', expected one of: option_scalper; choose one of these"):
        declaration("zzz")
