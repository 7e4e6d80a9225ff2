"""A whole run as one file: its keys are options, its table changes a preset, and the command line wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.cli.main import main
from training.cli.studies.run_file import PATHS, expanded
from training.cli.train import parser, settings_from
from training.desks.registry import kind

FILE = """
strategy = "daily_rebalancer"
bars = "days.parquet"
models-dir = "/store"
preset = "wide"
seeds = 3
folds = 2
ablation = true
refit = false

[coefficients]
epochs = 3
"""


def test_the_keys_of_a_file_are_options_and_its_table_changes_the_preset(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(FILE)
    found = settings_from(parser().parse_args(expanded(["--run", str(tmp_path / "study.toml"), "--seeds", "5"])))
    wide = kind("daily_rebalancer").preset("wide")
    assert found.bars == tmp_path / "days.parquet"
    assert found.out == Path("/store")
    assert (len(found.seeds), found.folds, found.refit, found.rewards) == (5, 2, False, ("shares", "notional"))
    assert found.coefficients == replace(wide.coefficients, epochs=3)
    assert expanded(["--strategy", "x"]) == ["--strategy", "x"]


def test_every_path_of_a_file_is_relative_to_it_and_so_is_code_of_one_s_own(tmp_path: Path) -> None:
    assert {action.option_strings[0][2:] for action in parser()._actions if action.type is Path} - {"run"} == PATHS
    text = 'option-quotes = "q.parquet"\nstrategy = "mine.py:Mine"\nsink = ["wandb", "sinks/own.py:Own", "a.b:C"]\n'
    (tmp_path / "study.toml").write_text(text)
    assert expanded(["--run", str(tmp_path / "study.toml")]) == [
        "--option-quotes", str(tmp_path / "q.parquet"), "--strategy", str(tmp_path / "mine.py:Mine"),
        "--sink", "wandb", "--sink", str(tmp_path / "sinks/own.py:Own"), "--sink", "a.b:C",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sedes = 3", "there is no --sedes: did you mean --seeds?"),
        ("[coefficients]\nepoch = 3", "[coefficients]: unknown coefficient 'epoch': did you mean 'epochs'?"),
        ("[folds]\ncount = 3", "[folds] is a table, expected [coefficients] alone"),
        ("seeds = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(text)
    given = ["--run", str(tmp_path / "study.toml"), "--strategy", "option_scalper", "--bars", "b.csv"]
    try:
        code: object = main(given)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert complaint in capsys.readouterr().err
