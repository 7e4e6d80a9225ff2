"""Ablations: what is kept and what is dropped, and a whole small one that is gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.training.small_runs import UPDATE, quiet, small_settings
from training.cli.main import main
from training.cli.studies.ablate import ablation_of, parser, table
from training.desks.kind import Arm
from training.runs.ledger import Ledger, ledger_path
from training.studies.ablation import BASE, Ablation, Measured, run_ablation, verdicts_of

ARMS = {BASE: Arm("as it is"), "better": Arm("b"), "worse": Arm("w"), "luck": Arm("l"), "one_day": Arm("o")}


def test_a_setting_is_kept_where_it_leads_over_other_seeds_and_over_other_sessions() -> None:
    random = np.random.default_rng(7)
    measurements = []
    for fold in range(2):
        for seed in range(5):
            market = random.normal(0.0, 0.01, 200)
            one_day = np.where(np.arange(200) == 17, 0.2, 0.0)  # every seed leads, by one session
            gaps: dict[str, Any] = {
                BASE: 0.0,
                "better": 0.0004,
                "worse": -0.0004,
                "luck": random.normal(0.0, 0.002, 200),
            }
            for arm, gap in {**gaps, "one_day": one_day}.items():
                returns = market + gap
                growth = float(np.log1p(returns).mean())
                measurements.append(Measured(arm, fold, seed, (growth, growth + 0.001), tuple(returns.tolist()), 1))
    base, better, worse, luck, one_day_only = verdicts_of(measurements, ARMS)
    assert (base.arm, base.seeds, base.keep) == (BASE, None, False)
    assert base.over_starts == pytest.approx(0.0005 * 252)
    assert (better.keep, better.words) == (True, "keep: better over seeds and over sessions")
    assert better.seeds is not None
    assert better.seeds.estimate == pytest.approx(0.0004 * 252, rel=0.02)
    assert better.sessions is not None
    assert better.sessions.estimate == pytest.approx(0.0004 * 252)
    assert (worse.keep, worse.words) == (False, "drop: worse")
    assert (luck.keep, luck.words) == (False, "drop: not proven")
    assert one_day_only.seeds is not None
    assert one_day_only.seeds.low > 0.0  # not enough
    assert (one_day_only.keep, one_day_only.words) == (False, "drop: not proven")


@pytest.mark.parametrize(("seeds", "sessions"), [(1, 40), (5, 15)])
def test_one_seed_or_a_few_sessions_keep_nothing(seeds: int, sessions: int) -> None:
    measurements = [
        Measured(arm, 0, seed, (gain,), (gain,) * sessions, 1)
        for arm, gain in ((BASE, 0.0), ("better", 0.01))
        for seed in range(seeds)
    ]
    _, better = verdicts_of(measurements, {BASE: ARMS[BASE], "better": ARMS["better"]})
    assert (better.keep, better.words) == (False, "drop: not known from one seed, or from fewer than 16 sessions")


def test_a_small_ablation_trains_each_setting_before_the_tests_and_goes_on(tmp_path: Path) -> None:
    small = replace(small_settings(tmp_path), steps=UPDATE, seeds=(1, 2), run_folder=tmp_path / "ablation")
    ablation = Ablation(small, {"one_epoch": Arm("an epoch for each rollout", {"epochs": 1})})
    messages: list[object] = []
    result, folder = run_ablation(ablation, messages.append)
    assert folder == tmp_path / "ablation"
    assert result.validation == ("2024-06-25", "2024-06-25")
    assert result.first_test == "2024-06-26"
    cells = [(one.arm, one.fold, one.seed) for one in result.trainings]
    assert cells == [(BASE, 0, 1), (BASE, 0, 2), ("one_epoch", 0, 1), ("one_epoch", 0, 2)]
    assert all(len(one.growth) == len(one.returns) == 1 for one in result.trainings)
    folders = ("as-asked-fold1-seed1", "one_epoch-fold1-seed1")
    metrics = [json.loads((folder / "trials" / name / "metrics.jsonl").read_text()) for name in folders]
    assert [line["epochs"] for line in metrics] == [2, 1]
    lines = Ledger(ledger_path(small.out, small.strategy)).read().lines
    assert [(line.first, line.last, line.note.split(":")[0]) for line in lines] == [
        ("2024-06-25", "2024-06-27", f"ablation, {name}") for name in (BASE, "one_epoch")
    ]
    assert run_ablation(ablation, quiet)[0] == result  # all of it is there
    assert len(Ledger(ledger_path(small.out, small.strategy)).read().lines) == 2
    assert "one_epoch" in table(result)
    assert "no session from 2024-06-26 on was used" in table(result)


def test_the_command_takes_the_strategy_s_settings_and_lists_them_where_a_name_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--strategy", "regime_switcher", "--bars", "etfs.parquet"]
    settings = ablation_of(parser().parse_args([*arguments, "--seeds", "3", "--practice", "turnover=0.002"]))
    assert set(settings.arms) == {
        "band", "burn_in", "starts_20", "from_2015", "turnover", "target_kl", "weight_average",
        "no_memory", "no_market", "no_account",
    }  # fmt: skip
    assert (settings.run.seeds, settings.run.folds, settings.run.practice.turnover) == ((1, 2, 3), 3, 0.002)
    assert main(["ablate", *arguments, "--settings", "band,sleep"]) == 2
    assert "regime_switcher has no 'sleep': expected some of turnover (" in capsys.readouterr().err
