"""A whole run as one file: its keys are options, its table changes a preset, and the command line wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.cli.main import main
from training.cli.studies.run_file import REPEATED, expanded
from training.cli.train import parser, settings_from
from training.desks.registry import kind
from training.rl.dimensions import with_values
from training.runs.settings import Settings

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


def settings_of(*arguments: str) -> Settings:
    """The settings of a command line."""
    options = parser()
    return settings_from(options.parse_args(expanded(arguments, options)))


def test_the_keys_of_a_file_are_options_and_its_table_changes_the_preset(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(FILE)
    settings = settings_of("--run", str(tmp_path / "study.toml"), "--seeds", "5")
    wide = kind("daily_rebalancer").preset("wide")
    assert settings.bars == tmp_path / "days.parquet"
    assert settings.out == Path("/store")
    assert (len(settings.seeds), settings.folds, settings.refit, settings.rewards) == (
        5,
        2,
        False,
        ("account", "shares", "notional"),
    )
    assert settings.plan == with_values(wide.plan, {"epochs": 3})
    assert expanded(["--strategy", "x"], parser()) == ["--strategy", "x"]


def test_the_command_line_wins_over_lists_and_the_table_of_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(FILE.replace("seeds = 3", 'practice = ["permute=true", "turnover=0.1"]'))
    (tmp_path / "c.json").write_text('{"epochs": 7}')
    run = ("--run", str(tmp_path / "study.toml"))
    assert settings_of(*run).practice.changes == {"permute": True, "turnover": 0.1}
    other = settings_of(
        *run, "--bars", "others.csv", "--practice", "universe=0.5", "--coefficients", str(tmp_path / "c.json")
    )
    assert (other.bars, other.more_bars) == (Path("others.csv"), ())
    assert other.practice.changes == {"universe": 0.5}
    assert other.plan == with_values(kind("daily_rebalancer").preset("wide").plan, {"epochs": 7})


def test_every_path_of_a_file_is_relative_to_it_and_so_is_code_of_one_s_own(tmp_path: Path) -> None:
    several = {action.dest for action in parser()._actions if type(action).__name__ == "_AppendAction"}
    assert several == REPEATED
    text = 'option-quotes = "q.parquet"\nstrategy = "mine.py:Mine"\nsink = ["wandb", "sinks/own.py:Own", "a.b:C"]\n'
    (tmp_path / "study.toml").write_text(text)
    assert expanded(["--run", str(tmp_path / "study.toml")], parser()) == [
        "--option-quotes", str(tmp_path / "q.parquet"), "--strategy", str(tmp_path / "mine.py:Mine"),
        "--sink", "wandb", "--sink", str(tmp_path / "sinks/own.py:Own"), "--sink", "a.b:C",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sedes = 3", "study.toml: sedes is no option: did you mean seeds?"),
        ("step = 3", "study.toml: step is no option: did you mean steps?"),
        ('run = "other.toml"', "study.toml: run is no option"),
        ('changes = "{}"', "study.toml: changes is no option"),
        ("seeds = [1, 2]", "study.toml: seeds is [1, 2]: expected a whole number"),
        ("seeds = true", "study.toml: seeds is true: expected a whole number"),
        ("folds = 2.5", "study.toml: folds is 2.5: expected a whole number"),
        ('ablation = "yes"', 'study.toml: ablation is "yes": expected true or false'),
        ("steps = false", "study.toml: steps is false: expected a whole number"),
        ("bars = ['a.csv', 7]", "study.toml: bars is 7: expected a path in quotation marks, or a list of such"),
        ("[[coefficients]]\nepochs = 3", 'coefficients is [{"epochs": 3}]: expected a path in quotation marks'),
        ("[coefficients]\nepochs = 2024-01-01", "epochs is '2024-01-01': expected a whole number from 1"),
        ("models-dir = 'a'\nout = 'b'", "study.toml: out is models-dir by another name: expected one of them"),
        ("[coefficients]\nepoch = 3", "[coefficients]: unknown coefficient 'epoch': did you mean 'epochs'?"),
        ("[folds]\ncount = 3", "[folds] is a table, expected [coefficients] alone"),
        ("seeds = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(text)
    arguments = ["--run", str(tmp_path / "study.toml"), "--strategy", "option_scalper", "--bars", "b.csv"]
    try:
        code: object = main(arguments)
    except SystemExit as system_exit:
        code = system_exit.code
    assert code == 2
    assert complaint in capsys.readouterr().err


def test_two_files_of_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", "a.toml", "--run=b.toml"]) == 2
    assert "--run is given 2 times (a.toml, b.toml): expected one file" in capsys.readouterr().err
