"""The command from end to end on a small made-up file: what it writes, that it repeats itself, how it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from strategies.manifest import decode
from strategies.synthetic import synthetic_sessions
from tests.training.made_up import sessions, write_csv
from training import run
from training.cli import main
from training.ppo import Coefficients
from training.run import Checked, Settings, train_and_export

SMALL = Coefficients(environments=16, rollout_steps=16, batch=128, epochs=2)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("bars") / "walk.csv", synthetic_sessions(3, sessions(27)))


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer random traders, for speed."""
    monkeypatch.setattr(run, "RANDOM_DRAWS_MARKET", 20)
    monkeypatch.setattr(run, "RANDOM_DRAWS_DRY_RUN", 1)
    monkeypatch.setattr(run, "DRAWS_AT_ONCE", 20)


@pytest.mark.usefixtures("few_draws")
def test_a_run_writes_a_version_whose_report_begins_with_what_it_earns_and_the_same_seed_writes_the_same_bytes(
    bars: Path, tmp_path: Path
) -> None:
    settings = Settings("option_scalper", bars, tmp_path / "a", steps=512, seed=2, coefficients=SMALL)
    heard: list[object] = []
    folder = train_and_export(settings, heard.append)
    again = train_and_export(replace(settings, out=tmp_path / "b"), heard.append)
    other = train_and_export(replace(settings, out=tmp_path / "c", seed=3), heard.append)
    for name in ("policy.onnx", "manifest.json", "report.md"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    assert (folder / "policy.onnx").read_bytes() != (other / "policy.onnx").read_bytes()
    assert any(isinstance(news, Checked) and news.best for news in heard)
    manifest = decode((folder / "manifest.json").read_bytes())
    assert manifest.training.splits == {
        "train": ("2024-06-20", "2024-06-24"),
        "validate": ("2024-06-25", "2024-06-25"),
        "test": ("2024-06-26", "2024-06-27"),
    }
    assert (manifest.training.file, manifest.hyperparameters["seed"], manifest.promoted) == ("walk.csv", 2, False)
    first = (folder / "report.md").read_text().split("\n", 1)[0]
    assert first.startswith("Out of sample (2 sessions, 2024-06-26 to 2024-06-27) and after all costs this policy ")
    assert "always-HOLD earns 0.00 USD" in first


@pytest.mark.usefixtures("few_draws")
def test_the_command_tells_of_checkpoints_and_prints_the_version_s_folder(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path), "--steps", "1"]) == 0
    said = capsys.readouterr()
    folder = Path(said.out.strip())
    assert (tmp_path / "option_scalper" / "current").read_text().strip() == folder.name
    assert "16,384 steps" in said.err  # one whole rollout: 256 environments x 64 steps
    assert "best so far" in said.err


@pytest.mark.parametrize(
    ("strategy", "file", "complaint"),
    [
        ("option_scalpel", "walk.csv", "did you mean 'option_scalper'?"),
        ("option_scalper", "missing.csv", "missing.csv"),
        ("option_scalper", "short.csv", "too little history: 2 usable sessions"),
        ("option_scalper", "sparse.csv", "most bars are 300 s apart; expected bars of 60 s"),
    ],
)
def test_what_cannot_be_trained_on_ends_with_exit_code_2_one_line_and_no_file(
    strategy: str, file: str, complaint: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = list(synthetic_sessions(3, sessions(23)))
    write_csv(tmp_path / "short.csv", made)
    write_csv(tmp_path / "sparse.csv", made[::5])
    (tmp_path / "walk.csv").write_bytes(bars.read_bytes())
    out = tmp_path / "models"
    assert main(["--strategy", strategy, "--bars", str(tmp_path / file), "--out", str(out), "--steps", "1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("train-and-export: ")
    assert complaint in said
    assert not out.exists()


@pytest.mark.parametrize("argument", [["--steps", "0"], ["--seed", "-1"], ["--reward", "fame"]])
def test_an_argument_out_of_bounds_ends_with_exit_code_2(argument: list[str], bars: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path), *argument])
    assert stopped.value.code == 2
