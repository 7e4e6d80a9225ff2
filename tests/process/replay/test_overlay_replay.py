"""The risk overlay through the whole daemon: a replay, its proof, the tools, and the same money in training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer
from strategies.daily_rebalancer import DailyRebalancer
from tests.support.desks.desk_run import environment, rltraderctl, rltraderd, summary_of, table
from tests.support.models.daily_models import VERSION, put_models, write_days
from training.data.daily_table import read_table
from training.desks.daily.markets.rebalancer import ACCOUNT, by_variant
from training.desks.daily.play import play_rebalancer
from training.evaluate.days import desk_before, dry_run

TARGET = 0.001


@pytest.mark.parametrize("lacking", [0, 1])
def test_replay_training_s_desk_and_its_market_end_each_session_with_the_same_money(
    tmp_path: Path, lacking: int
) -> None:
    """On the day after a session that the tape lacks nothing is traded."""
    models = put_models(tmp_path / "models")
    tape = write_days(tmp_path / "stocks.csv", daily_rebalancer.SYMBOLS, 412)
    lines = tape.read_text().splitlines()
    lost = [lines[407].split(",")[1]][:lacking]  # of the seventh session that is traded
    tape.write_text("\n".join(line for line in lines if line.split(",")[1] not in lost) + "\n")
    variables = environment(
        RLTRADER_PATHS__MODELS_DIR=str(models),
        RLTRADER_POLICY__VERSION=VERSION,
        RLTRADER_BASKET__VOLATILITY_TARGET=str(TARGET),
        RLTRADER_BASKET__SHARES_PER_UNIT="100",
    )
    variables.pop("RLTRADER_PAPER__CASH_USD", None)
    state_dir = tmp_path / "state"
    run = ("--dry-run", "--strategy", "daily_rebalancer", "--bars", tape, "--state-dir", state_dir)
    finished = rltraderd(*run, cwd=tmp_path, env=variables)
    assert finished.returncode == 0, finished.stderr
    summary = summary_of(finished)
    assert (summary["decisions"], summary["denials"]) == (12 - lacking, {"stale_history": 1} if lacking else {})

    session_file = next((models / "daily_rebalancer").rglob("*.onnx"))
    session = onnxruntime.InferenceSession(str(session_file), providers=["CPUExecutionProvider"])

    def policy(observations: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"observation": observations.numpy()})[0])

    trading = trading_for("daily_rebalancer")
    trading = by_variant(replace(trading, basket=replace(trading.basket, volatility_target=TARGET)), ACCOUNT)
    bars = read_table(tape, DailyRebalancer())
    dates = bars.dates[400:]
    desk_sessions = dry_run(policy, desk_before(bars, dates, DailyRebalancer(), trading)).sessions
    market = play_rebalancer(policy, bars, dates, trading, variant=ACCOUNT)
    ends = {row[0]: float(row[1]) for row in table(state_dir, "equity")}
    closes = [session_.close_ns for session_ in bars.sessions[400:]]
    replayed = [ends[close_ns] for close_ns in closes]
    for sessions in (desk_sessions, market):
        assert [r.capital_usd + r.pnl_usd for r in sessions] == pytest.approx(replayed, rel=0, abs=0.01)
    overlays = table(state_dir, "overlays")
    assert len(overlays) == 12 - lacking
    assert any(json.loads(row[8]) for row in overlays)  # something was cut

    proven = rltraderctl("verify", "--state-dir", state_dir, cwd=tmp_path)
    assert (proven.returncode, proven.stdout.split(":")[0]) == (0, "identical")
    listed = rltraderctl("decisions", "--limit", "1", "--state-dir", state_dir, cwd=tmp_path).stdout
    (bar,) = [part for part in listed.split() if part.startswith("2021-")]
    text = " ".join(rltraderctl("decisions", "--bar", bar, "--state-dir", state_dir, cwd=tmp_path).stdout.split())
    cap, volatility = overlays[-1][5], overlays[-1][4]
    assert cap == pytest.approx(min(TARGET / volatility, 1.0))
    assert f"At most {cap:.2%} of the equity may be invested = target 0.10% / forecast {volatility:.2%} (ewma)" in text
    assert np.isfinite(replayed).all()
