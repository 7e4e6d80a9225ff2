"""A desk of one's own strategy: its state directory finds the file again, and changed code is treated as a release."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daemon.dashboard.desks import FollowedDesk
from daemon.engine.recover import code_digest
from strategies.golden import contract_hash
from strategies.kit.manifest import Training
from strategies.registry import add, strategy
from tests.support.desks.desk_run import Crash, Desk, command, environment, log_of, rltraderctl, table
from tests.support.own.files import forgotten_again, write_strategy
from tests.support.training.made_up_days import days, write_days
from training.export.export import Release, export

NAME = "mine_keeper"
SESSIONS = 40


TALKS = """

def talking(self, *arguments, observe=ToyKeeper.observe):
    print("as a person does who looks for a mistake")
    return observe(self, *arguments)


ToyKeeper.observe = talking
"""


class Alternating(nn.Module):
    """SPY after a day that rose, else cash."""

    def forward(self, observation: Tensor) -> Tensor:
        """Logits (batch, 2) of returns and weight (batch, 3)."""
        return torch.stack([-observation[:, 0], observation[:, 0]], dim=1) * 1000.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the strategy, its model, a tape, and two desks: one at the tape's end, one that crashed."""
    folder = tmp_path_factory.mktemp("made")
    with forgotten_again():
        add(str(write_strategy(folder / f"{NAME}.py", NAME)))
        training = Training("none", "", "sip", True, 0, "", "", {})
        probes = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
        release = Release(training, {}, {}, version="first")
        export(Alternating(), strategy(NAME), release, out=folder / "onnx_models", probes=probes)
        tape = write_days(folder / "spy.csv", ("SPY",), days("2024-01-02", "2024-12-31", SESSIONS))
        options = {"desk__strategy": NAME, "paths__models_dir": folder / "onnx_models", "policy__version": "first"}
        desk, steps_left = Desk(tape, **options, paper__cash_usd=50_000), 150

        def crash(boundary: str) -> None:
            nonlocal steps_left
            steps_left -= boundary == "before step"
            if steps_left == 0:
                raise Crash

        code = code_digest(NAME)
        assert desk.run(folder / "whole", code=code).failure is None
        assert isinstance(desk.run(folder / "crashed", boundary=crash, group_events=1, code=code).failure, Crash)
        yield folder


@pytest.fixture
def home(runs: Path, tmp_path: Path) -> Path:
    """A copy of that folder at which a test may do what it wants; the journals remember the first folder."""
    return shutil.copytree(runs, tmp_path / "home")


def rltraderd(home: Path, state: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Replay the tape into `state`."""
    line = command("daemon", "--dry-run", "--bars", home / "spy.csv", "--state-dir", state, *arguments)
    models = {"RLTRADER_PATHS__MODELS_DIR": str(home / "onnx_models"), "RLTRADER_POLICY__VERSION": "first"}
    cash = {"RLTRADER_PAPER__CASH_USD": "50000"}
    return subprocess.run(
        line, cwd=home, env=environment(**models, **cash), capture_output=True, text=True, timeout=300, check=False
    )


def test_every_command_finds_the_strategy_by_the_state_directory(runs: Path, tmp_path: Path) -> None:
    verified = rltraderctl("verify", "--state-dir", runs / "whole", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.startswith("identical: ")
    status = rltraderctl("status", "--state-dir", runs / "whole", "--json", cwd=tmp_path)
    assert json.loads(status.stdout)["strategy"] == NAME
    assert json.loads(status.stdout)["problem"] == ""


def test_the_dashboard_follows_it_by_the_journal_alone(runs: Path) -> None:
    with forgotten_again():
        picture = FollowedDesk("mine", runs / "whole").look()
    assert picture.problem == ""
    assert picture.spec is not None
    assert (picture.spec.name, picture.caught_up) == (NAME, True)


def test_a_start_finds_it_too_and_changed_code_goes_on_where_the_desk_stopped_cleanly(home: Path, runs: Path) -> None:
    state = shutil.copytree(runs / "whole", home / "state")
    again = rltraderd(home, state)
    assert again.returncode == 0, again.stderr
    with (runs / f"{NAME}.py").open("a") as file:
        file.write("\n# another comment\n")
    try:
        other = rltraderd(home, state, "--strategy", NAME)
        assert other.returncode == 0, other.stderr
        assert not [line for line in log_of(other.stderr) if line["event"] == "halted"]
        checked = rltraderctl("verify", "--state-dir", state, cwd=home)
        assert checked.returncode == 0, checked.stdout
        assert "were written by other code" in checked.stdout
    finally:
        shutil.copy(home / f"{NAME}.py", runs / f"{NAME}.py")


def test_changed_code_starts_halted_where_the_desk_crashed(home: Path, runs: Path) -> None:
    state = shutil.copytree(runs / "crashed", home / "state")
    new_code = (
        (home / f"{NAME}.py").read_text().replace("int(portfolio.equity / price)", "int(portfolio.equity / price / 2)")
    )
    (home / f"{NAME}.py").write_text(new_code)
    run = rltraderd(home, state, "--strategy", home / f"{NAME}.py")
    assert run.returncode == 0, run.stderr
    (halted,) = [line for line in log_of(run.stderr) if line["event"] == "halted"]
    assert halted["reason"] == "code_changed"


def test_a_moved_file_is_reported_and_named_once(home: Path, runs: Path) -> None:
    state = shutil.copytree(runs / "whole", home / "state")
    place = runs / f"{NAME}.py"
    place.rename(runs / "away.py")
    try:
        refused = rltraderctl("verify", "--state-dir", state, cwd=home)
        assert refused.returncode == 2
        assert f"{place}: no such file: correct the path, or name it with --strategy" in refused.stderr
        assert "Traceback" not in refused.stderr
        refused = rltraderd(home, state)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
        assert f"{place}: no such file" in refused.stderr
        file = home / f"{NAME}.py"
        assert rltraderctl("verify", "--state-dir", state, "--strategy", file, cwd=home).returncode == 0
        assert rltraderd(home, state, "--strategy", file).returncode == 0
        assert rltraderctl("verify", "--state-dir", state, cwd=home).returncode == 0  # remembered from then on
    finally:
        (runs / "away.py").rename(place)
    assert table(state, "events")


@pytest.mark.parametrize("desk", ["whole", "crashed"])
@pytest.mark.parametrize("mistake", ["1 / 0", "raise SystemExit(0)", "def"])
def test_what_a_desk_holds_is_shown_while_its_file_cannot_be_imported(
    home: Path, runs: Path, desk: str, mistake: str
) -> None:
    """A person edits the file of a desk that runs: what it holds is seen all the same."""
    state = shutil.copytree(runs / desk, home / "state")
    place = runs / f"{NAME}.py"
    text = place.read_text()
    whole = [rltraderctl("status", "--state-dir", state, *more, cwd=home) for more in ((), ("--json",))]
    try:
        place.write_text(f"{text}\n{mistake}\n")
        shown = [rltraderctl("status", "--state-dir", state, *more, cwd=home) for more in ((), ("--json",))]
    finally:
        place.write_text(text)
    assert [one.returncode for one in shown] == [0, 0]
    before, after = (json.loads(ran[1].stdout) for ran in (whole, shown))
    for key in ("equity_usd", "cash_usd", "positions", "working", "halt", "seq", "realized_pnl_usd", "trades"):
        assert after.get(key) == before.get(key), key
    assert before["equity_usd"]
    assert f"{NAME}.py, line " in shown[0].stderr
    assert "is shown without it" in shown[0].stderr


def test_what_a_strategy_prints_stands_in_no_json(home: Path, runs: Path) -> None:
    state, place = shutil.copytree(runs / "crashed", home / "state"), runs / f"{NAME}.py"
    text = place.read_text()
    place.write_text(text + TALKS)
    try:
        shown = rltraderctl("status", "--state-dir", state, "--json", cwd=home)
    finally:
        place.write_text(text)
    assert json.loads(shown.stdout)["strategy"] == NAME
    assert "as a person does who looks for a mistake" in shown.stderr


def test_check_names_file_digest_and_contract(home: Path, runs: Path) -> None:
    result = rltraderd(home, home / "new", "--strategy", f"{NAME}.py:ToyKeeper", "--check")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("strategy ")]
    contract = contract_hash(strategy(NAME))[:12]
    assert f"{NAME} ({home / f'{NAME}.py'}, digest " in line
    assert f"contract {contract}; it is not shipped, and runs with the daemon's rights" in line


@pytest.mark.parametrize("argument", ["mine_keepr", "gone.py", "mine_keeper.py:Nothing"])
def test_what_is_not_there_is_refused_in_one_line(home: Path, argument: str) -> None:
    refused = rltraderd(home, home / "new", "--strategy", argument)
    assert refused.returncode == 2
    (line,) = log_of(refused.stderr)
    assert line["event"] == "refused"
    assert "desk.strategy" in line["problem"]
    assert not (home / "new").exists()


def test_rltraderctl_refuses_a_strategy_that_is_not_there_in_one_line(runs: Path) -> None:
    for argument, expected in (("mine", "expected one of: "), ("gone.py", "no such file")):
        refused = rltraderctl("status", "--state-dir", runs / "whole", "--strategy", argument, cwd=runs)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert line.startswith("rltraderctl: --strategy: ")
        assert expected in line


def test_a_configuration_file_may_name_the_file_and_its_tables(home: Path) -> None:
    text = f'[desk]\nstrategy = "{NAME}.py"\n[{NAME}.risk]\nreject_rate_max = 0.4\n'
    (home / "config.toml").write_text(text)
    result = rltraderd(home, home / "new", "--check")
    assert result.returncode == 0, result.stderr
    assert f"from config.toml, [{NAME}.risk]: risk.reject_rate_max 0.4" in result.stdout
    (home / "config.toml").write_text(text.replace(f"[{NAME}.", "[mine_other."))
    assert "mine_other (from config.toml) is unknown" in rltraderd(home, home / "new", "--check").stderr
