"""A strategy is found by its name, and a mistyped name is answered with the nearest one."""

from __future__ import annotations

import subprocess
import sys

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
        ValueError,
        match=f"strategy is 'zzz', expected one of: {', '.join(sorted(STRATEGIES))}; ",
    ):
        declaration("zzz")


def test_a_daily_strategy_is_found_by_its_name_and_another_is_refused() -> None:
    for name in ("daily_rebalancer", "regime_switcher"):
        assert daily_strategy(name).spec == strategy(name).spec
    with pytest.raises(ValueError, match=r"'option_scalper', expected one that decides daily: choose one of daily_reb"):
        daily_strategy("option_scalper")
    with pytest.raises(ValueError, match=r"did you mean 'regime_switcher'\?"):
        daily_strategy("regime_switch")


def test_only_the_file_of_the_strategy_that_is_asked_for_is_imported() -> None:
    script = "import sys; from strategies.registry import strategy; strategy('option_scalper'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in modules if name in STRATEGIES.values()} == {"strategies.option_scalper"}


def test_each_strategy_says_when_it_decides_and_what_it_holds() -> None:
    specs = {name: strategy(name).spec for name in ("option_scalper", "daily_rebalancer", "regime_switcher")}
    rules = {name: (spec.decides, spec.holds) for name, spec in specs.items()}
    assert rules == {
        "option_scalper": ("bar", "option"),
        "daily_rebalancer": ("session", "shares"),
        "regime_switcher": ("session", "shares"),
    }
    assert [name for name, spec in specs.items() if spec.continuous] == ["daily_rebalancer"]
