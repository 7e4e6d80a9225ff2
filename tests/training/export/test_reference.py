"""The reference distributions: what is kept of a play, what the shipped models carry, and the command that adds it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daemon.core.events import BarClosed
from daemon.core.strategy_rules import trading_for
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode, encode
from strategies.registry import STRATEGIES, strategy
from tests.support.models.tested_desk import desk_config_of
from tests.support.paths import REPOSITORY
from tests.support.training.made_up import random_walk, write_csv
from training.cli.main import main
from training.desks.kind import Span
from training.desks.registry import kind
from training.export.reference import AnswerRecorder, Input, Watched, each_column, reference_of

STORE = REPOSITORY / "onnx_models"
SCALPER, SWITCHER = strategy("option_scalper").spec, strategy("regime_switcher").spec


def shipped(name: str) -> tuple[Path, Manifest]:
    folder = STORE / name / (STORE / name / "current").read_text().strip()
    return folder, decode((folder / MANIFEST_FILE).read_bytes())


# --- what is kept -------------------------------------------------------------------------------------------------


def test_the_newest_row_of_each_question_is_kept_with_its_answer() -> None:
    recorder = AnswerRecorder()
    policy = recorder.before(lambda observations: observations[:, -1] * 10.0)
    assert policy(torch.tensor([[[0.0], [1.0]]])).tolist() == [[10.0]]  # a window of two rows of one column
    recorder.keep(torch.tensor([[3.0, 4.0]]).reshape(1, 2, 1), torch.tensor([[5.0]]))
    rows = recorder.watched()
    assert (rows.rows.tolist(), rows.answers.tolist()) == ([[1.0], [4.0]], [[10.0], [5.0]])


class Waits(nn.Module):
    """Holds, whatever it sees."""

    def forward(self, observation: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.zeros(len(observation), dtype=torch.int64), 6).float()


def test_a_desk_of_minutes_is_asked_in_every_minute_after_the_twentieth_half_days_too(tmp_path: Path) -> None:
    events = random_walk(31)
    bars = [event.bar for event in events if isinstance(event, BarClosed)]
    trading = trading_for("option_scalper")
    data = kind("option_scalper").load(write_csv(tmp_path / "bars.csv", bars), trading)
    dates = list(data.days)[-2:]
    assert dates == ["2024-07-02", "2024-07-03"]
    rows = data.watch(Waits(), Span(dates, "potential", trading))
    assert len(rows.rows) == (390 - 19) + (210 - 19)
    elapsed = rows.rows[:, SCALPER.features.index("session_elapsed")]
    assert elapsed[[370, -1]].tolist() == [1.0, 1.0]
    assert rows.rows[:, 20:].any() == np.False_  # the desk never held anything


def test_chosen_actions_are_counted_and_inputs_taken_from_their_columns() -> None:
    rows = np.zeros((4, 23), dtype=np.float32)
    rows[:, 5] = [1.0, 1.0, 2.0, 4.0]
    answers = np.eye(6, dtype=np.float32)[[0, 1, 1, 5]]
    reference = reference_of((Input("five", (5,), True),), Watched(rows, answers), SCALPER)
    (five,) = reference.features
    assert (reference.samples, five.name, five.columns, five.of_the_desk) == (4, "five", (5,), True)
    assert (five.edges, five.shares) == ((1.5, 3.0), (0.5, 0.25, 0.25))
    assert reference.actions.shares == (0.25, 0.5, 0.0, 0.0, 0.0, 0.25)


def test_a_continuous_policy_s_values_are_pooled_over_its_outputs() -> None:
    answers = np.array([[-1.0, 1.0]] * 3, dtype=np.float32)
    reference = reference_of(
        (), Watched(np.zeros((3, 803), dtype=np.float32), answers), strategy("daily_rebalancer").spec
    )
    assert (reference.actions.edges, reference.actions.shares) == ((0.0,), (0.5, 0.5))


def test_columns_are_named_by_their_features_and_the_desk_s_are_marked() -> None:
    histograms = each_column(SWITCHER, range(8, 11), of_the_desk=("weight ",))
    assert histograms == (
        Input("volatility IWM", (8,)),
        Input("weight CASH", (9,), True),
        Input("weight SPY", (10,), True),
    )


# --- which inputs -------------------------------------------------------------------------------------------------


def test_prices_cash_and_shares_are_never_compared() -> None:
    names = {name: [quantity.name for quantity in kind(name).inputs] for name in STRATEGIES}
    assert names["daily_rebalancer"] == ["rsi14", "cci20", "dx14", "williams_r14", "stochastic_k14", "tradable"]
    assert names["option_scalper"] == list(SCALPER.features)
    assert names["regime_switcher"] == list(SWITCHER.features[:15])  # the others are reserved and 0
    assert [len(quantity.columns) for quantity in kind("daily_rebalancer").inputs] == [50] * 6


def test_what_follows_from_the_policy_s_own_doing_is_marked() -> None:
    marked = {name: [q.name for q in kind(name).inputs if q.of_the_desk] for name in STRATEGIES}
    assert marked["option_scalper"] == ["position_side", "position_return", "position_age"]
    assert marked["regime_switcher"] == [
        "weight CASH", "weight SPY", "weight QQQ", "weight IWM", "portfolio_return", "drawdown",
    ]  # fmt: skip
    assert marked["daily_rebalancer"] == []


# --- the shipped models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in STORE.glob("*/*/manifest.json")), ids=lambda p: p.name
)
def test_every_shipped_model_carries_a_reference_and_is_still_the_one_that_was_exported(folder: Path) -> None:
    name, manifest = folder.parent.name, decode((folder / MANIFEST_FILE).read_bytes())
    reference, maker = manifest.reference, strategy(name)
    assert reference is not None
    assert manifest.contract_hash == contract_hash(maker)
    assert manifest.policy_sha256[:8] in folder.name.split("-")
    assert [f.name for f in reference.features] == [quantity.name for quantity in kind(name).inputs]
    for distribution in (*reference.features, reference.actions):
        assert len(distribution.shares) == len(distribution.edges) + 1
        assert sum(distribution.shares) == pytest.approx(1.0, abs=1e-5)
        assert list(distribution.edges) == sorted(distribution.edges)
    continuous = maker.spec.continuous
    assert continuous or len(reference.actions.shares) == len(maker.spec.actions)
    most = 1024 if maker.spec.rows_are_symbols else 100  # KiB: golden observations have a row for each symbol
    assert (folder / MANIFEST_FILE).stat().st_size < most * 1024


def without(name: str, store: Path) -> Path:
    """A copy of the shipped version without its reference."""
    folder, manifest = shipped(name)
    copy = store / name / folder.name
    shutil.copytree(folder, copy)
    (copy / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, reference=None)))
    return copy


def add(name: str, folder: Path, bars: Path) -> int:
    config = desk_config_of(decode((folder / MANIFEST_FILE).read_bytes()), folder.parent)
    arguments = ("--strategy", name, "--bars", bars, "--version", folder.name, "--out", folder.parent.parent)
    return main(["reference", *map(str, (*arguments, "--config", config))])


def test_the_command_makes_the_shipped_reference_again_and_changes_nothing_else(tmp_path: Path, data_dir: Path) -> None:
    folder = without("regime_switcher", tmp_path)
    assert add("regime_switcher", folder, data_dir / "etf_daily_2010_2022.parquet") == 0
    expected, manifest = shipped("regime_switcher")[1], decode((folder / MANIFEST_FILE).read_bytes())
    assert expected.reference is not None
    assert manifest.reference is not None
    assert msgspec.structs.replace(manifest, reference=None) == msgspec.structs.replace(expected, reference=None)
    assert manifest.reference.samples == expected.reference.samples
    for feature, other in zip(manifest.reference.features[:9], expected.reference.features[:9], strict=True):
        assert (feature.edges, feature.shares) == (other.edges, other.shares)
    assert manifest.reference.actions.shares == pytest.approx(expected.reference.actions.shares, abs=0.005)


def test_another_file_than_the_one_it_was_trained_on_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without("regime_switcher", tmp_path)
    before = (folder / MANIFEST_FILE).read_bytes()
    (tmp_path / "bars.csv").write_text("symbol,timestamp\n")
    assert add("regime_switcher", folder, tmp_path / "bars.csv") == 2
    errors = capsys.readouterr().err
    assert "bars.csv has SHA-256" in errors
    assert "give the file etf_daily_2010_2022.parquet" in errors
    assert (folder / MANIFEST_FILE).read_bytes() == before


def test_a_policy_that_is_not_the_manifest_s_is_refused(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without("regime_switcher", tmp_path)
    (folder / "policy.onnx").write_bytes(b"another")
    assert add("regime_switcher", folder, data_dir / "etf_daily_2010_2022.parquet") == 2
    assert "policy.onnx has SHA-256" in capsys.readouterr().err


def test_a_version_of_another_strategy_of_this_name_gets_no_reference(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without("regime_switcher", tmp_path)
    path = folder / MANIFEST_FILE
    path.write_bytes(encode(msgspec.structs.replace(decode(path.read_bytes()), contract_hash="11" * 32)))
    before = path.read_bytes()
    assert add("regime_switcher", folder, data_dir / "etf_daily_2010_2022.parquet") == 2
    assert "its answers mean something else there" in capsys.readouterr().err
    assert path.read_bytes() == before
