"""Own code in a training: what runs is what its version says, and its errors name its line in each process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from strategies.registry import add
from tests.support.own.files import HOOKS, forgotten_again, write_strategy
from tests.support.training.made_up_days import days, write_days
from training import __main__ as program
from training.rl.pool import blamed_here
from training.runs.folder import RunFolderError, code_version
from training.runs.prepared import prepare, prepare_same
from training.runs.settings import settings_for

WRONG = HOOKS.replace('USED["network"]', 'USED["net"]')


def written(folder: Path, name: str, hooks: str, text: str = HOOKS) -> tuple[Path, Path]:
    """A strategy, its training in the module `hooks`, and its bars; returns strategy and bars."""
    file = write_strategy(folder / f"{name}.py", name, after=f"STRATEGY = STRATEGY._replace(training='{hooks}:KIND')\n")
    (folder / f"{hooks}.py").write_text(text.replace("mine_hooked", name))
    return file, write_days(folder / "spy.csv", ("SPY",), days("2024-01-02", "2024-12-31", 40))


@pytest.mark.parametrize("edited", ["mine_edited.py", "hooks_edited.py"])
def test_a_file_that_is_edited_while_processes_start_trains_nothing_under_the_old_version(
    tmp_path: Path, edited: str
) -> None:
    file, bars = written(tmp_path, "mine_edited", "hooks_edited")
    with forgotten_again():
        settings = settings_for(add(str(file)), bars, tmp_path / "store")
        version = code_version("mine_edited")
        info = prepare((settings, Path(), version)).data.info
        with (tmp_path / edited).open("a") as text:
            text.write("# another reward\n")
        with pytest.raises(RunFolderError, match="was changed, or a file that it imports, after the command began"):
            code_version("mine_edited")  # of what runs here, the digest is not to be had any more
    with forgotten_again():  # as a process that starts now
        add(str(file))
        with pytest.raises(RunFolderError, match=f"{file} was changed, .*give the same command again"):
            prepare_same((settings, Path(), version), info.sha256)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('    USED["network"] += 1\n', '    USED["net"] += 1\n'),
        ('    USED["reward"] += 1\n', '    USED["rew"] += 1\n'),
        ('    USED["environment"] += 1\n', '    USED["env"] += 1\n'),
    ],
    ids=["network", "reward", "environment"],
)
def test_an_error_of_any_type_in_what_trains_is_named_with_its_line(
    tmp_path: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert before in HOOKS
    file, bars = written(tmp_path, "mine_failing", "hooks_failing", HOOKS.replace(before, after))
    text = (tmp_path / "hooks_failing.py").read_text().splitlines()
    line = 1 + text.index(after.rstrip("\n"))
    command = ["--strategy", str(file), "--bars", str(bars), "--models-dir", str(tmp_path / "store")]
    monkeypatch.setattr(
        sys, "argv", ["train-and-export", *command, "--run-dir", str(tmp_path / "run"), "--processes", "1"]
    )
    with forgotten_again():
        assert program.main() == 2
    last = capsys.readouterr().err.splitlines()[-1]
    key = after.split('"')[1]
    where = f"{tmp_path / 'hooks_failing.py'}, line {line}"
    assert last == f"train-and-export: the strategy failed: KeyError: '{key}' ({where}): correct it there"


def test_what_leaves_a_process_is_in_words_and_an_error_of_ours_below_own_code_is_as_it_was(tmp_path: Path) -> None:
    file, _ = written(tmp_path, "mine_blamed", "hooks_blamed", f"{WRONG}from strategies.registry import add\n")
    with forgotten_again():
        name = add(str(file))
        code_version(name)
        import hooks_blamed  # type: ignore[import-not-found]

        with (
            pytest.raises(RuntimeError, match=r"the strategy failed: KeyError: 'net' \(.*hooks_blamed.py, line "),
            blamed_here(),
        ):
            hooks_blamed.network(None)
        with pytest.raises(ValueError, match="strategy is 'nowhere', expected one of"), blamed_here():
            hooks_blamed.add("nowhere")
