"""`train-and-export learn`: a known rule is learned, exported and traded, and what was not learned is not claimed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from strategies.kit.manifest import decode
from training.cli.learn.command import LearningResult
from training.cli.main import main

STEPS = 65_536


def test_a_policy_learns_the_rule_and_the_daemon_trades_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["learn", "--steps", str(STEPS), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert f"{STEPS:,}" in output
    assert "\nLearned: " in output
    assert output.rindex("what next:") > output.index("Learned: ")
    (manifest,) = (out / "store" / "online_dqn").glob("*/manifest.json")
    version = decode(manifest.read_bytes())
    assert version.training.synthetic
    assert not version.promoted
    assert (out / "store" / "online_dqn" / "current").read_text().strip().startswith(version.version)
    with sqlite3.connect(out / "state" / "journal.sqlite") as journal:
        (fills,) = journal.execute("SELECT count(*) FROM events WHERE kind = 'OrderFilled'").fetchone()
    assert fills > 200  # the rule buys about 25 times in each of ten sessions, and sells as often


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (LearningResult(0.02, 0.0184, 0.0, 0.2, 0.19), "Learned: 92% of what the rule earns. From noise: nothing."),
        (LearningResult(0.02, 0.017, 0.0, 0.2, 0.2), "Not learned: 85% of what the rule earns. From noise: nothing."),
        (LearningResult(0.02, 0.02, 0.0, 0.2, 0.1), "Not learned: 100% of what the rule earns. From noise: nothing."),
        (
            LearningResult(0.02, 0.02, 0.003, 0.2, 0.2),
            "Learned: 100% of what the rule earns. From noise: a gain that is not there.",
        ),
        (LearningResult(-0.01, -0.01, 0.0, 0.2, 0.2), "Not learned: nothing to learn. From noise: nothing."),
    ],
)
def test_the_verdict_claims_only_what_was_earned_on_both_markets(result: LearningResult, verdict: str) -> None:
    assert result.verdict() == verdict


def test_a_folder_in_use_and_no_steps_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").touch()
    assert main(["learn", "--out", str(tmp_path)]) == 2
    assert "which is not empty" in capsys.readouterr().err
    assert main(["learn", "--steps", "0"]) == 2
    assert "--steps is 0: expected at least 1" in capsys.readouterr().err
