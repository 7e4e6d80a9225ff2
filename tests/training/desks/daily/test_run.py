"""Whole runs of the daily strategies on small made-up files, as a user gives the command; what is refused, and how."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch

from daemon.host.time.calendar import midnight_ns
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import ModelError, load
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import Bar
from strategies.kit.manifest import decode
from strategies.registry import strategy as registered
from tests.support.training.made_up import write_csv
from tests.support.training.made_up_days import days, write_days
from training.cli.main import main
from training.desks.daily import baselines
from training.desks.registry import kind
from training.desks.trial import News
from training.evidence.findings import decode as decode_findings
from training.report.results import SIZES_HEAD, size_rows
from training.rl.coefficients import Coefficients
from training.rl.pool import Flag, Stopped
from training.runs.folder import code_version
from training.runs.ledger import Ledger, ledger_path
from training.runs.prepared import UNTRAINED, prepare
from training.runs.settings import Settings, requests_of, settings_for
from training.runs.tasks import train_one
from training.studies.runner import write_result
from training.study.study import Study, Trial

STOCKS, FUNDS = daily_rebalancer.SPEC.name, regime_switcher.SPEC.name
SMALL = Coefficients(environments=8, rollout_steps=16, batch=64, epochs=2, sequence=8)
UPDATE = 128  # transitions
FIVE = ("SPY", "QQQ", "IWM", "TLT", "GLD")
SYMBOLS = {STOCKS: daily_rebalancer.SYMBOLS, FUNDS: regime_switcher.SYMBOLS}
WARM = {STOCKS: 400, FUNDS: 252}


class Made:
    """What a command made: its version, its run's folder, and its standard error."""

    def __init__(
        self, home: Path, strategy: str, *options: str, symbols: Sequence[str] = (), bars: Path | None = None
    ) -> None:
        bars = bars or write_days(
            home / f"{strategy}.csv",
            symbols or SYMBOLS[strategy],
            days("2020-01-02", "2022-06-30", WARM[strategy] + 20),
        )
        self.run, self.store = home / f"run-{strategy}", home / "store"
        self.command = [
            "--strategy", strategy, "--bars", str(bars), "--out", str(self.store), "--run-dir", str(self.run),
            "--processes", "1", *options,
        ]  # fmt: skip
        if "--passive" not in options:  # which has no coefficients, and is exported as it is
            changes, usual = home / f"{strategy}.json", settings_for(strategy, bars, home).plan
            assert isinstance(usual, Coefficients)
            write_result(changes, SMALL.differences(usual))
            self.command += ["--coefficients", str(changes), "--allow-unproven"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(self.command)
        self.errors = err.getvalue()
        assert code == 0, self.errors
        self.version = Path(out.getvalue().strip())

    @property
    def study(self) -> Study:
        """All that the run found."""
        return msgspec.json.decode((self.run / "study.json").read_bytes(), type=Study)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this module's, where tables are kept too."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", autouse=True)
def _cache(home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield


@pytest.fixture(scope="module")
def rebalancer(home: Path) -> Made:
    """Both sizes of an action, two updates each."""
    return Made(home, STOCKS, "--steps", str(2 * UPDATE), "--ablation", "--select", "best")


@pytest.fixture(scope="module")
def switcher(home: Path) -> Made:
    """Four updates with a memory."""
    return Made(home, FUNDS, "--steps", str(4 * UPDATE))


def test_a_run_of_the_rebalancer_ends_with_a_version_that_the_daemon_opens(rebalancer: Made) -> None:
    policy = OnnxPolicy.open(
        load(rebalancer.store, registered(STOCKS), rebalancer.version.name), registered(STOCKS), "cpu"
    )
    assert policy.version == rebalancer.version.name
    manifest = decode((rebalancer.version / "manifest.json").read_bytes())
    usable = days("2020-01-02", "2022-06-30", 420)[400:]
    assert manifest.training.splits == {
        "train": (usable[0], usable[11]), "validate": (usable[12], usable[15]), "test": (usable[16], usable[19]),
    }  # fmt: skip
    assert "20 sessions from " in rebalancer.errors
    assert "they are split 60/20/20 instead, and none is left out" in rebalancer.errors
    assert "turnover" in manifest.metrics["test"]
    assert "win_rate" not in manifest.metrics["test"]  # orders filled are no trades that could be won
    assert sorted(path.name for path in rebalancer.version.iterdir()) == [
        "manifest.json", "policy.onnx", "report.html", "report.json", "weights.pt",
    ]  # fmt: skip


def test_all_sizes_of_an_action_are_trained_and_the_headline_s_is_chosen_and_compared(rebalancer: Made) -> None:
    study = rebalancer.study
    assert [(trial.reward, trial.seed) for trial in study.trials] == [("account", 1), ("shares", 1), ("notional", 1)]
    assert (study.reward, study.chosen, study.compounds, study.capital_usd) == ("account", (0,), True, 1_000_000.0)
    assert [one.name for one in study.baselines] == [
        *(name for name in baselines.REBALANCER_BASELINES if name != baselines.SPY),  # no file of funds beside it
        UNTRAINED,
    ]  # fmt: skip
    assert {"costs x 2", "one bar late"} <= set(study.scenarios)
    assert len(study.random_pnl_usd[0]) == 1000
    for trial in study.trials:
        first, *rest = trial.test.sessions
        assert first.capital_usd == 1_000_000.0
        for before, after in zip(trial.test.sessions, rest, strict=False):
            assert abs(before.capital_usd + before.pnl_usd - after.capital_usd) < 1e-6
    lines = Ledger(ledger_path(rebalancer.store, STOCKS)).read().lines
    assert [line.kind for line in lines] == ["opening", "trial", "trial", "trial"]


def test_a_policy_with_a_memory_is_exported_with_its_states_and_the_daemon_opens_it(switcher: Made) -> None:
    OnnxPolicy.open(load(switcher.store, registered(FUNDS), switcher.version.name), registered(FUNDS), "cpu")
    graph = onnx.load(switcher.version / "policy.onnx").graph
    assert [item.name for item in (*graph.input, *graph.output)] == ["observation", "hidden", "logits", "next_hidden"]
    golden = decode((switcher.version / "manifest.json").read_bytes()).golden
    states = np.array([np.frombuffer(state, dtype="<f4") for state in golden.hidden])
    assert states.shape == (len(golden.observations), 128)
    assert len(np.unique(states, axis=0)) == len(states)
    study = switcher.study
    assert (study.network, study.reward, study.compounds, study.capital_usd) == ("gru", "alpha", True, 100_000.0)
    assert [one.name for one in study.baselines] == [*kind(regime_switcher.SPEC.name).baselines, UNTRAINED]
    assert baselines.RESET in study.scenarios


@pytest.fixture(scope="module")
def diversified(home: Path) -> Made:
    """The switcher of five funds, its bars in a file with more."""
    (home / "five").mkdir()
    options = ("--symbols", ",".join(FIVE), "--steps", str(2 * UPDATE))
    return Made(home / "five", FUNDS, *options, symbols=(*FIVE, "XLE"))


def test_the_switcher_of_other_funds_is_trained_compared_and_opened_for_their_list_alone(diversified: Made) -> None:
    maker, name = registered(FUNDS, FIVE), diversified.version.name
    OnnxPolicy.open(load(diversified.store, maker, name), maker, "cpu")
    manifest = decode((diversified.version / "manifest.json").read_bytes())
    assert (manifest.symbols, manifest.actions[12]) == (FIVE, "NO_TLT")
    assert [one.name for one in diversified.study.baselines] == [
        "ALL_SPY", "ALL_QQQ", "ALL_IWM", "ALL_TLT", "ALL_GLD", "EQUAL_WEIGHT", "INVERSE_VOLATILITY", "HOLD", "random",
        UNTRAINED,
    ]  # fmt: skip
    assert manifest.reference is not None
    assert [feature.name for feature in manifest.reference.features][-7:-2] == [
        "weight SPY", "weight QQQ", "weight IWM", "weight TLT", "weight GLD",
    ]  # fmt: skip
    for other, words in (((), "the strategy's own symbols"), (FIVE[:4], "SPY, QQQ, IWM, TLT")):
        with pytest.raises(ModelError, match=r"set desk\.symbols to") as caught:
            load(diversified.store, registered(FUNDS, other), name)
        assert f"was made for {', '.join(FIVE)}, desk.symbols is {words}" in str(caught.value)
    page = (diversified.version / "report.html").read_text()
    assert "--symbols SPY,QQQ,IWM,TLT,GLD" in page
    assert f"<pre>RLTRADER_DESK__SYMBOLS={','.join(FIVE)} RLTRADER_POLICY__VERSION={name} rltraderd" in page
    assert "Each fund in proportion to 1 / its volatility" in page


def test_a_model_of_the_strategys_own_list_is_refused_by_a_desk_of_another(switcher: Made) -> None:
    with pytest.raises(ModelError, match=r"was made for the strategy's own symbols, desk\.symbols is SPY, QQQ"):
        load(switcher.store, registered(FUNDS, FIVE), switcher.version.name)


@pytest.mark.parametrize(
    ("symbols", "problem"),
    [
        ("SPY,TLT,SPY", "the symbols are SPY, TLT, SPY, expected each symbol once"),
        ("A,B,C,D,E,F,G,H,I,J,K", "expected 1 to 10 symbols"),
        ("SPY,QQQ,LOST", "has no bar of LOST"),
    ],
)
def test_a_list_that_cannot_be_trained_is_refused_before_anything_is_trained(
    symbols: str, problem: str, switcher: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*switcher.command, "--symbols", symbols, "--restart"]) == 2
    assert problem in capsys.readouterr().err


def test_the_validation_return_is_of_one_account(switcher: Made) -> None:
    (trial,) = switcher.study.trials
    best = next(point for point in trial.curve if point.steps == trial.chosen_steps)
    first, last = trial.validate[0], trial.validate[-1]
    assert abs(best.validate_return - ((last.capital_usd + last.pnl_usd) / first.capital_usd - 1.0)) < 1e-9
    assert best.validate_return == max(point.validate_return for point in trial.curve)


@pytest.fixture(scope="module")
def small(home: Path) -> Made:
    """The passive switcher of an account of 5,000 USD, whose configuration says so, on funds that stay at 50 USD."""
    folder = home / "small"
    folder.mkdir()
    (folder / "desk.toml").write_text("[paper]\ncash_usd = 5000\n")
    dates = days("2020-01-02", "2022-06-30", WARM[FUNDS] + 20)
    still = (Bar(symbol, midnight_ns(date), 50.0, 50.0, 50.0, 50.0, 1e6) for date in dates for symbol in SYMBOLS[FUNDS])
    bars = write_csv(folder / "still.csv", still)
    return Made(folder, FUNDS, "--passive", "--config", str(folder / "desk.toml"), bars=bars)


def test_the_size_of_the_account_is_the_configuration_s_everywhere(small: Made) -> None:
    """A third of 5,000 USD buys 33 shares of 50 USD with their costs, three times; the first day costs all there is.

    A buy that waits for the open pays 50.01 (0.02 %), and 0.1 % of that: 99 x 50.01 = 4,950.99 and 4.95099 of costs;
    for CAT a cent.
    """
    cost = 99 * 0.01 + 4.96099
    study, manifest = small.study, decode((small.version / "manifest.json").read_bytes())
    (trial,) = study.trials
    first, *later = trial.test.sessions
    assert (first.capital_usd, first.trades) == (5_000.0, 3)
    assert (first.premium_usd, first.pnl_usd, first.fees_usd) == pytest.approx((4_950.99, -cost, 4.96099))
    assert [session.pnl_usd for session in later] == [0.0] * len(later)
    assert trial.validate[0].capital_usd == 5_000.0
    assert {one.name: one.folds[0].sessions[0].capital_usd for one in study.baselines} == dict.fromkeys(
        [one.name for one in study.baselines], 5_000.0
    )
    assert {one[0].sessions[0].capital_usd for one in study.scenarios.values()} == {5_000.0}
    assert study.capital_usd == 5_000.0
    assert manifest.desk == {"paper.cash_usd": "5000"}
    assert manifest.metrics["test"]["net_return"] == round(-cost / 5_000.0, 6)
    assert "5,000 USD" in (small.version / "report.html").read_text()


def test_the_report_has_what_is_exported_on_accounts_of_several_sizes(small: Made) -> None:
    """On 5,000 USD a third is 33 1/3 shares of 50 USD, and 33 are held: 1 % of the equity is in no share.

    From the second session on the equity is 4,994.04901 USD, less what 99 shares cost above 50 USD.
    """
    study = small.study
    assert study.sizes is not None
    assert (study.sizes.first, study.sizes.last) == (study.folds[0].test[0], study.folds[0].test[-1])
    accounts = {one.capital_usd: one for one in study.sizes.accounts}
    assert [*accounts] == [5_000, 25_000, 100_000, 1_000_000]
    least, later = accounts[5_000], (4_994.04901 - 99 * 50.0) / 4_994.04901
    assert least.off == pytest.approx((0.01 + 3 * later) / 4, rel=1e-6)
    assert least.off_most == pytest.approx(least.off / 3, rel=1e-6)
    assert (least.sessions, least.fractions, least.orders, least.denials) == (4, False, 3 / 4, 0)
    assert least.costs == pytest.approx(4.96099 / 5_000)
    assert accounts[1_000_000].off < least.off
    assert decode_findings((small.version / "report.json").read_bytes()).sizes == study.sizes
    page = (small.version / "report.html").read_text()
    assert f"of the 4 test sessions from {study.sizes.first} to {study.sizes.last}" in page
    assert "1,000,000" in page
    assert "fees by the day" in page
    by_day = {row[0]: row[SIZES_HEAD.index("fees by the day")] for row in size_rows(study.sizes)}
    assert (by_day["5,000"], by_day["1,000,000"]) == ("0.0002 %", "–")  # CAT's cent of the first session


class StopAfter:
    """A flag that is set once `updates` updates were reported."""

    def __init__(self, updates: int) -> None:
        self._updates_left = updates

    def __call__(self, news: object) -> None:
        self._updates_left -= isinstance(news, News)

    def is_set(self) -> bool:
        return self._updates_left <= 0

    def set(self) -> None:
        self._updates_left = 0


def _settings(run: Made, strategy: str) -> Settings:
    bars = Path(run.command[run.command.index("--bars") + 1])
    settings = replace(settings_for(strategy, bars, run.store), plan=SMALL, processes=1)
    steps = int(run.command[run.command.index("--steps") + 1])
    return replace(settings, steps=steps, rewards=tuple(dict.fromkeys(trial.reward for trial in run.study.trials)))


@pytest.mark.parametrize("strategy", [STOCKS, FUNDS])
def test_a_trial_stopped_after_every_update_is_that_of_an_undisturbed_run(
    strategy: str, rebalancer: Made, switcher: Made, tmp_path: Path
) -> None:
    run = {STOCKS: rebalancer, FUNDS: switcher}[strategy]
    settings = _settings(run, strategy)
    prepared = replace(prepare((settings, Path(), code_version())), folder=tmp_path)
    request = requests_of(settings)[0]

    def train_trial(stop: Flag, tell: Any) -> Trial:
        return train_one(prepared, request, stop, tell)

    for _ in range(settings.steps // UPDATE - 1):
        stop = StopAfter(1)
        with pytest.raises(Stopped):
            train_trial(stop, stop)
    trial = train_trial(threading.Event(), lambda _: None)
    place = Path("trials") / request.name
    assert _same(tmp_path / place / "best.pt", run.run / place / "best.pt")
    assert (tmp_path / place / "metrics.jsonl").read_text() == (run.run / place / "metrics.jsonl").read_text()
    undisturbed = run.study.trials[0]
    assert msgspec.structs.replace(trial, seconds=0.0) == msgspec.structs.replace(undisturbed, seconds=0.0)


def _same(one: Path, other: Path) -> bool:
    weights, other_weights = (torch.load(path, weights_only=True) for path in (one, other))
    return weights.keys() == other_weights.keys() and all(
        torch.equal(weights[name], other_weights[name]) for name in weights
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--preset", "regime"],
            "argument --preset: invalid choice: 'regime' (choose from 'finrl', 'wide', 'passive', 'shared')",
        ),
        (
            ["--reward", "potential"],
            "argument --reward: invalid choice: 'potential' (choose from 'account', 'shares', 'notional')",
        ),
        (["--network", "lstm"], "argument --network: invalid choice: 'lstm' (choose from 'mlp', 'shared')"),
        (["--reference-years", "--folds", "2"], "--reference-years is one fold of given years: leave --folds out"),
    ],
)
def test_what_the_strategy_does_not_have_ends_with_exit_code_2(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--strategy", STOCKS, "--bars", "b.csv", "--out", str(tmp_path), *options])
    assert exit_info.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("strategy", "sessions", "options", "complaint"),
    [
        (
            FUNDS,
            256,
            [],
            "too little history: 4 usable sessions, at least 5 are needed after those that warm the desk up",
        ),
        (FUNDS, 0, [], "bars.csv: no such file"),
        (FUNDS, 0, ["--import-sb3", "model.zip"], "model.zip: No such file or directory"),
        (STOCKS, 3, ["--strategy", FUNDS], "no row of SPY, QQQ, IWM"),
    ],
)
def test_what_cannot_be_trained_on_ends_with_exit_code_2_one_line_and_no_file(
    strategy: str,
    sessions: int,
    options: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if sessions:
        write_days(tmp_path / "bars.csv", SYMBOLS[strategy], days("2020-01-02", "2021-06-30", sessions))
    out, run = tmp_path / "models", tmp_path / "run"
    arguments = ["--strategy", strategy, "--bars", str(tmp_path / "bars.csv"), "--out", str(out), "--run-dir", str(run)]
    assert main([*arguments, *options]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train-and-export: ")
    assert complaint in message
    assert not out.exists()
    assert not run.exists()
