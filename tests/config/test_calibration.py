"""`paths.calibration`: the constants of a calibration are defaults of `[paper]`, below every key that is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.config.load import ConfigError, load
from daemon.tapes.quotes.calibration_file import Calibration, Fitted, write_calibration

MADE = Calibration(
    version=2, quotes="q.parquet", quotes_sha256="0" * 64, roots=("SPY",), closes="", interval="minute", synthetic="",
    first_date="2024-08-12", last_date="2024-08-14", sessions=3, rows=100,
    fitted=Fitted(half_spread=0.0029, half_spread_min_usd=None, volatility_premium=1.4), spreads=(), terms=(),
)  # fmt: skip


def calibration(folder: Path, made: Calibration = MADE) -> Path:
    write_calibration(folder / "calibration.json", made)
    return folder / "calibration.json"


def test_what_it_found_replaces_the_defaults_and_the_rest_stays(tmp_path: Path) -> None:
    path = calibration(tmp_path)
    settings = load(None, {"paths.calibration": str(path)})
    paper = settings.trading().paper
    assert (paper.half_spread, paper.volatility_premium, paper.half_spread_min_usd) == (0.0029, 1.4, 0.005)
    assert settings.origin("paper.half_spread").startswith(f"calibration {path}: SPY 2024-08-12 to 2024-08-14, digest ")


def test_keys_that_are_written_win(tmp_path: Path) -> None:
    path = calibration(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\ncalibration = "{path}"\n[paper]\nhalf_spread = 0.01\n')
    paper = load(config, {"paper.volatility_premium": 2.0}).trading().paper
    assert (paper.half_spread, paper.volatility_premium) == (0.01, 2.0)


def test_a_missing_a_changed_and_a_made_up_calibration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"paths\.calibration \(from the command line\): .*none.json: cannot"):
        load(None, {"paths.calibration": str(tmp_path / "none.json")})
    path = calibration(tmp_path)
    path.write_text(path.read_text().replace("1.4", "1.0"))
    with pytest.raises(ConfigError, match="the content was changed after it was written"):
        load(None, {"paths.calibration": str(path)})
    with pytest.raises(ConfigError, match=r"fitted to made-up quotes \(a model\): expected recorded ones"):
        load(None, {"paths.calibration": str(calibration(tmp_path, replace(MADE, synthetic="a model")))})
