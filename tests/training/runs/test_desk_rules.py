"""A run by a desk's own configuration: its rules, and what is wrong with a file of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from daemon.core.strategy_rules import trading_for
from daemon.tapes.quotes.calibration_file import Calibration, Fitted, write_calibration
from tests.support.training.studies import hand_study
from training.report.find import find
from training.report.report import page
from training.runs.settings import settings_for, trading_of


def test_a_run_takes_the_desk_s_limits_and_is_another_run_by_them(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[risk]\nconfidence_min = 0.31\n")
    assert trading_of("option_scalper", None) == trading_for("option_scalper")
    trading = trading_of("option_scalper", config)
    assert trading == replace(trading_for("option_scalper"), risk=replace(trading.risk, confidence_min=0.31))
    usual = settings_for("option_scalper", Path("b.csv"), Path("s"))
    with_config = replace(usual, config=config)
    assert usual.identity("00")["rules"] != with_config.identity("00")["rules"]
    assert with_config.command().endswith("--config config.toml")
    config.write_text("")  # the defaults: the same run
    assert with_config.identity("00") == usual.identity("00")


def test_the_environment_counts_with_a_configuration_alone_also_where_a_rule_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLTRADER_RISK__CONFIDENCE_MIN", "0.31")
    usual = trading_for("option_scalper")
    swept = trading_of("option_scalper", None, {"sizing.stop_loss": 0.11})
    assert swept == replace(usual, sizing=replace(usual.sizing, stop_loss=0.11))
    (tmp_path / "config.toml").write_text("")
    for changes in (None, {"sizing.stop_loss": 0.11}):
        assert trading_of("option_scalper", tmp_path / "config.toml", changes).risk.confidence_min == 0.31


def test_a_run_by_a_calibration_is_another_run_and_names_it_with_the_values_that_count(tmp_path: Path) -> None:
    calibration = Calibration(
        version=2, quotes="q.parquet", quotes_sha256="0" * 64, roots=("SPY",), closes="", interval="minute",
        synthetic="", first_date="2024-08-12", last_date="2024-08-14", sessions=3, rows=100,
        fitted=Fitted(0.0029, None, 1.4), spreads=(), terms=(),
    )  # fmt: skip
    sealed = write_calibration(tmp_path / "calibration.json", calibration)
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\ncalibration = "{tmp_path}/calibration.json"\n[paper]\nvolatility_premium = 1.3\n')
    paper = trading_of("option_scalper", config).paper
    assert (paper.half_spread, paper.half_spread_min_usd, paper.volatility_premium) == (0.0029, 0.005, 1.3)
    usual = settings_for("option_scalper", Path("b.csv"), Path("s"))
    identity = replace(usual, config=config).identity("00")
    assert identity["rules"] != usual.identity("00")["rules"]
    assert "calibration" not in usual.identity("00")
    assert identity["calibration"] == {
        "quotes": "q.parquet", "roots": ["SPY"], "digest": sealed.digest,
        "half_spread": 0.0029, "half_spread_min_usd": 0.005, "volatility_premium": 1.3,
    }  # fmt: skip
    study = hand_study()
    study = msgspec.structs.replace(study, settings={**study.settings, "calibration": identity["calibration"]})
    assert f"volatility_premium 1.3; to q.parquet, digest {sealed.digest[:16]}" in page(study, find(study))


def test_a_wrong_key_is_named_with_its_cure(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[risk]\nconfidence_mim = 0.31\n")
    with pytest.raises(ValueError, match="confidence_min"):
        trading_of("option_scalper", config)
    with pytest.raises(ValueError, match="check the path given with --config"):
        trading_of("option_scalper", tmp_path / "none.toml")
