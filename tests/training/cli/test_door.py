"""Without torch the command says what to do, instead of showing where it broke."""

from __future__ import annotations

import subprocess
import sys

import pytest

from training.cli.main import main

WITHOUT_TORCH = """
import sys
import training.__main__ as door

door.find_spec = lambda name: None if name == "torch" else name
sys.exit(door.main())
"""


def test_without_torch_the_command_names_what_is_missing_and_the_cure() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "train-and-export: torch is not installed; training needs more than the daemon: run `make training` in a "
        "checkout, or pip install -c constraints.txt -e '.[cpu,training]' (Python 3.11); a strategy that is a rule "
        "(new-strategy --template plain) needs none of it\n"
    )


ASKED = """
import sys
from contextlib import suppress

from training.cli.main import COMMANDS, main

for words in (["--version"], ["--bras"], ["--strategy", "x", "--precision", "int8"], ["--steps", "1"],
              ["--help"], *([name, "--help"] for name in COMMANDS)):
    with suppress(SystemExit):
        main(words)
sys.exit("torch is loaded" if "torch" in sys.modules else 0)
"""


def test_options_are_read_and_refused_before_torch_is_loaded() -> None:
    result = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    refused = [line for line in result.stderr.splitlines() if "error: " in line]
    assert [line.partition("error: ")[2].partition(" (")[0] for line in refused] == [
        "no option is called '--bras'; did you mean --bars?",
        "argument --precision: 'int8': expected one of float32, bf16, auto",
        "the following arguments are required: --strategy",
    ]
    assert result.stdout.count("usage: ") == 15  # of training, and of 14 commands


def test_the_help_of_a_named_strategy_lists_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help", "--strategy", "option_scalper"])
    assert exit_info.value.code == 0
    listed = "what option_scalper has, its default first:\n  --preset standard|passive  --network mlp|lstm  --reward "
    assert listed in capsys.readouterr().out
    assert main(["--strategy", "nobody", "--help"]) == 2
    assert capsys.readouterr().err.startswith("train-and-export: strategy is 'nobody', expected one of: ")
