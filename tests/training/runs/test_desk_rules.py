"""A run by a desk's own configuration: its rules, and what is wrong with a file of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.core.strategy_rules import trading_for
from training.runs.desk_rules import trading_of
from training.runs.settings import settings_for


def test_a_run_takes_the_desk_s_limits_and_is_another_run_by_them(tmp_path: Path) -> None:
    own = tmp_path / "config.toml"
    own.write_text("[risk]\nconfidence_min = 0.31\n")
    assert trading_of("option_scalper", None) == trading_for("option_scalper")
    found = trading_of("option_scalper", own)
    assert found == replace(trading_for("option_scalper"), risk=replace(found.risk, confidence_min=0.31))
    usual = settings_for("option_scalper", Path("b.csv"), Path("s"))
    ours = replace(usual, config=own)
    assert usual.identity("00")["rules"] != ours.identity("00")["rules"]
    assert ours.command().endswith("--config config.toml")
    own.write_text("")  # the defaults: the same run
    assert ours.identity("00") == usual.identity("00")


def test_a_wrong_key_is_named_with_its_cure(tmp_path: Path) -> None:
    own = tmp_path / "config.toml"
    own.write_text("[risk]\nconfidence_mim = 0.31\n")
    with pytest.raises(ValueError, match="confidence_min"):
        trading_of("option_scalper", own)
    with pytest.raises(ValueError, match="check the path given with --config"):
        trading_of("option_scalper", tmp_path / "none.toml")
