"""What `online_dqn` refuses to be trained with, which sessions a search looks at, and files that do not suffice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daemon.core.limits import Trading
from strategies.online_dqn import HOLD
from strategies.online_dqn.state_vector import shipped
from tests.support.training.online_bars import RULES, bundled, first_sessions, of_bars
from training.desks.kind import Task
from training.desks.online.data import OnlineTaskData, load
from training.desks.online.kind import KIND, PRESETS, FromHistory, OnlinePlan, RunningTrial
from training.desks.online.market import OnlineMarket
from training.desks.online.network import COLD_PRESETS, network_of, network_of_weights
from training.runs.folder import TrialFolder
from training.runs.prepared import prepare
from training.runs.settings import Settings, requests_of, settings_for
from training.study.folds import Cut, HistoryError

OWN = FromHistory()
PLAN = OnlinePlan()
CUT = Cut(KIND.walk, 1, stated=False, reference_years=False, unusable=KIND.unusable)


def task_of(settings: Settings, data: OnlineTaskData, folder: Path) -> Task[OnlineTaskData, OnlinePlan]:
    """The first trial of a run, with files of its own."""
    return Task(requests_of(settings)[0], PLAN, data, RULES, TrialFolder(folder, ""), lambda _: {})


@pytest.mark.parametrize(("device", "engine"), [("cuda", "own"), ("cpu", "rllib")])
def test_another_device_and_another_engine_are_refused(device: str, engine: str, tmp_path: Path) -> None:
    settings = settings_for("online_dqn", tmp_path / "none.csv", tmp_path, preset="smoke")
    option = "device" if device != "cpu" else "engine"
    with pytest.raises(ValueError, match=f"--{option} is not for online_dqn: "):
        prepare((replace(settings, device=device, engine=engine), tmp_path, ""))


def test_several_members_and_a_task_before_the_trials_are_refused(tmp_path: Path) -> None:
    settings = settings_for("online_dqn", tmp_path / "none.csv", tmp_path)
    with pytest.raises(ValueError, match="--members is not for online_dqn: it is one network"):
        prepare((replace(settings, plan=replace(PLAN, members=5)), tmp_path, ""))
    with pytest.raises(ValueError, match="nothing comes before the trials"):
        OWN.prior("forecast-2020", task_of(settings, OnlineTaskData(bundled()), tmp_path))
    assert OWN.stages(PLAN) == {}
    assert OWN.needed(PLAN, OWN.folds([str(day) for day in range(20)], PLAN, CUT)[0]) == ()


def test_a_search_sees_no_test_session() -> None:
    dates = tuple(f"{day:03d}" for day in range(100))
    folds = OWN.folds(dates, PLAN, CUT)
    (one,) = OWN.search_folds(dates, PLAN, folds, 1)
    assert (one.train, one.validate, one.test) == (dates[:60], dates[60:80], ())
    several = OWN.search_folds(dates, PLAN, folds, 2)
    assert len(several) == 2
    assert max(fold.validate[-1] for fold in several) < "080"
    assert {dimension.name for dimension in PLAN.searched} >= {"cold.pqn.learning_rate"}


def test_weights_give_the_network_that_they_are_of() -> None:
    for preset in COLD_PRESETS.values():
        network = network_of(shipped(), preset, 5)
        again = network_of_weights(shipped(), network.state_dict())
        rows = torch.randn(3, network.inputs)
        for one, other in zip(network(rows), again(rows), strict=True):
            assert torch.equal(one, other)
    assert list(KIND.presets) == list(PRESETS) == ["cold", "passive", "smoke"]


def test_files_that_do_not_suffice_are_refused_with_the_cure(tmp_path: Path) -> None:
    one = first_sessions(tmp_path / "one.csv", 1)
    with pytest.raises(HistoryError, match="give a longer file"):
        load([one], shipped(), (), RULES)
    with pytest.raises(HistoryError, match="give one with all, or one for each"):
        load([one, one], shipped(), ("SPY", "QQQ", "IWM"), RULES)
    with pytest.raises(HistoryError, match="no regular-session bar of QQQ"):
        load([one], shipped(), ("SPY", "QQQ"), RULES)
    data = bundled()
    with pytest.raises(ValueError, match="no session to draw from"):
        OnlineMarket(data.history, (), data.config, RULES, count=2)
    assert data.desk.before([], RULES) == ()


def test_a_desk_that_waits_after_the_open_and_never_halts_has_the_same_market() -> None:
    """Rules other than the defaults: a later first entry, no flatten after the daily loss."""
    rules: Trading = replace(RULES, risk=replace(RULES.risk, no_entry_after_open_min=30, daily_loss_flatten=False))
    data = of_bars(bundled().bars, rules)
    (day,) = data.on([next(iter(data.days))])
    assert not data.history.entry[day.first : day.first + 29].any()
    assert data.history.entry[day.first + 29]
    assert not data.history.entry[day.first + 359]  # 30 minutes before the close
    assert data.history.entry[day.first + 358]


def test_a_trial_can_begin_near_the_passive_policy_and_is_compared_with_that(tmp_path: Path) -> None:
    settings = settings_for("online_dqn", Path(), Path(), preset="passive")
    assert (settings.preset, settings.begins) == ("passive", "passive")
    data = OnlineTaskData(bundled())
    fold = OWN.folds(tuple(data.days), PLAN, CUT)[0]
    probes = torch.from_numpy(data.probes(fold, 100, 1))
    holds = []
    for begins in ("passive", "random"):
        task = task_of(replace(settings, begins=begins), data, tmp_path / begins)
        start = OWN.start(task, fold, torch.nn.Identity(), {}).policy
        under_way = RunningTrial(task, fold)
        weights = under_way._network.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in start.state_dict().items())
        with torch.no_grad():
            holds.append(int((start(probes)[0].argmax(dim=1) == HOLD).sum()))
    assert holds[0] > 95 > holds[1]
