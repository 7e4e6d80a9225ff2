"""A rule of one's own without torch: played, exported, swept and searched, and what its trials show together."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from daemon.cli import ctl
from daemon.core.strategy_rules import trading_for
from daemon.library.library import library_of
from daemon.models.store import load, warnings
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, decode
from strategies.registry import add, strategy
from tests.support.own.files import forgotten_again
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import days
from training.cli.train import main as train
from training.desks.kind import Span
from training.desks.own.data import Hooks
from training.desks.own.kind import load as with_torch
from training.desks.registry import kind
from training.evidence.wording import percent
from training.export.shelf import ExportError
from training.rules.command import main as rules
from training.rules.command import of_rule
from training.rules.desk import always, own_answer, rule_desk
from training.rules.export import export_rule
from training.rules.trials import RuleTask, RuleTrial, folds_of, play_trial, study_of_trials
from training.runs.ledger import LEDGER_FILE, Ledger, ledger_path
from training.study.folds import HistoryError
from training.study.study import Fold

WITHOUT = """
import sys

GONE = {"torch", "onnxscript", "gymnasium", "arch", "tensorboard", "scipy"}

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Without())
import training.__main__ as program
found = program.find_spec
program.find_spec = lambda name: None if name in GONE else found(name)
sys.exit(program.main())
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a rule of days and one of minutes of two symbols, both known."""
    folder = tmp_path_factory.mktemp("rules")
    with forgotten_again() as patch:
        patch.chdir(folder)
        for cadence in ("session", "bar"):
            words = ["new-strategy", f"ru_{cadence}", "--cadence", cadence, "--holds", "shares", "--template", "plain"]
            assert ctl.main(words) == 0
            add(str(folder / f"ru_{cadence}" / f"ru_{cadence}.py"))
        yield folder


def task_of(packages: Path, cadence: str, store: Path) -> RuleTask:
    return RuleTask(f"ru_{cadence}", packages / f"ru_{cadence}" / "tape.csv.gz", store)


@pytest.mark.parametrize("option", ["--steps", "--seeds", "--patience"])
def test_an_option_of_training_is_refused_as_nothing_is_trained(
    packages: Path, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_of(packages, "session", tmp_path)
    with pytest.raises(SystemExit) as ended:
        train(["--strategy", task.strategy, "--bars", str(task.bars), "--models-dir", str(tmp_path), option, "3"])
    assert ended.value.code == 2
    assert f"ru_session is a rule, and nothing is trained: leave {option} out" in capsys.readouterr().err


@pytest.mark.parametrize("cadence", ["session", "bar"])
def test_it_earns_what_the_desk_of_a_training_with_torch_earns(packages: Path, cadence: str, tmp_path: Path) -> None:
    task = task_of(packages, cadence, tmp_path)
    trading = trading_for(task.strategy)
    desk = rule_desk(task.strategy, task.bars, trading)
    dates = desk.days[-3:]
    data = with_torch(task.strategy, task.bars, trading, Hooks())
    assert desk.days == tuple(data.days)
    rule = kind(task.strategy).rule
    assert rule is not None
    expected = data.relay([rule()], [Span(dates, "", trading)]).folds[0]
    assert [one.pnl_usd for one in desk.play(own_answer(desk.spec), dates, trading).sessions] == [
        one.pnl_usd for one in expected.sessions
    ]
    assert {one.pnl_usd for one in desk.play(always(desk.spec, 0), dates, trading).sessions} == {0.0}


def test_without_torch_it_is_exported_swept_and_searched_and_the_daemon_takes_the_version(packages: Path) -> None:
    place = packages / "ru_session"

    def run(*words: str) -> str:
        common = ["--strategy", "ru_session.py", "--bars", "tape.csv.gz", "--models-dir", "plain"]
        line = [sys.executable, "-c", WITHOUT, *words[:1], *common, *words[1:]]
        line = [word for word in line if word]
        environment = {"PYTHONPATH": str(REPOSITORY), "HOME": str(packages)}
        result = subprocess.run(
            line, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    version = place / run("", "--activate")
    model = load(place / "plain", strategy("ru_session"), "current")
    assert model.manifest.version == version.name
    page = html.unescape((version / "report.html").read_text(encoding="utf-8"))
    earned = percent(model.manifest.metrics["net_return"])
    texts = (model.manifest.note, f"<td>{earned}</td>", "always SPY", "tape.csv.gz, made up")
    assert [text for text in texts if text not in page] == []
    assert page.count("<svg") == 2  # wide and narrow
    swept = json.loads((place / run("sweep", "--set", "parameters.fast=5,20")).read_text())
    assert [trial["values"] for trial in swept["trials"]] == [{}, {"parameters.fast": 5}, {"parameters.fast": 20}]
    assert len({len(trial["returns"]) for trial in swept["trials"]}) == 1
    searched = json.loads((place / run("search", "--trials", "3")).read_text())
    assert searched["deflated"]["trials"] == 3 + 3 + 1  # those of the sweep count too, and the test of the export
    listed = {run.id: run for run in library_of([place / "runs"]).runs}
    assert {name: (run.kind, run.strategy, run.verdict) for name, run in listed.items()} == {
        "sweep-ru_session": ("study", "ru_session", swept["words"]),
        "search-ru_session": ("study", "ru_session", searched["words"]),
    }
    assert listed["sweep-ru_session"].changed == {"parameters.fast": "5, 20"}


@pytest.mark.parametrize(
    ("symbol", "factor", "told"),
    [
        ("QQQ", "-1", "10 bars were rejected, 5 of them as not_positive, the first of QQQ"),
        ("QQQ", "", "There is no good bar of QQQ: nothing of it can be traded."),
        ("SPY", "0.25", "A price leaps: SPY on 2024-07-03 from 500.01 to 125.005"),
    ],
)
def test_what_is_wrong_with_the_bars_is_told_before_a_rule_is_played_or_a_network_trained(
    symbol: str, factor: str, told: str, packages: Path, tmp_path: Path
) -> None:
    tape = small_tape(tmp_path / "bad.csv", {symbol: factor})
    said: list[str] = []
    with pytest.raises(HistoryError, match=r"too few|too little"):
        folds_of(RuleTask("ru_bar", tape, tmp_path), said.append)
    assert told in " ".join(said)
    assert said == [f"bad.csv: {with_torch('ru_bar', tape, trading_for('ru_bar'), Hooks()).info.remark}"]


def test_bars_of_which_none_is_good_are_refused_with_the_reason(packages: Path, tmp_path: Path) -> None:
    tape = small_tape(tmp_path / "bad.csv", {"SPY": "-1", "QQQ": "-1"})
    with pytest.raises(HistoryError, match=r"no good bar of a regular session.* 10 of 10 bars .* as not_positive"):
        rule_desk("ru_bar", tape, trading_for("ru_bar"))


def small_tape(path: Path, factors: dict[str, str]) -> Path:
    """Five sessions of a bar of each symbol; from the third on, or all where negative, the price times its factor.

    A symbol with the factor "" has no bar.
    """
    rows = ["symbol,timestamp,open,high,low,close,volume"]
    for place, date in enumerate(days("2024-07-01", "2024-07-09", 5)):
        for symbol in ("SPY", "QQQ"):
            if factor := factors.get(symbol, "1"):
                changed = float(factor) if place >= 2 or factor.startswith("-") else 1.0
                price = (500.0 + 0.01 * place) * changed
                rows.append(f"{symbol},{date}T09:30:00-04:00,{price},{price},{price},{price},1000")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_search_of_the_same_seed_tries_the_same(packages: Path, tmp_path: Path) -> None:
    from training.rules.trials import search

    task = task_of(packages, "session", tmp_path)
    one, other = (search(task, 3, 7, lambda _: None) for _ in range(2))
    assert [trial.values for trial in one.trials] == [trial.values for trial in other.trials]
    assert one.trials[0].values == {}


def test_a_search_prints_whole_numbers_as_they_are(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8").replace("ru_session", "ru_large")
    declared, made = '    "fast": kit', "fast: int = 10, slow"
    assert (source.count(declared), source.count(made)) == (1, 1)
    large = '    "volume": kit.Parameter(12345, 12345, 12346, "shares a day"),\n'
    source = source.replace(declared, large + declared).replace(made, "volume: int = 12345, fast: int = 10, slow")
    (tmp_path / "ru_large.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tape = str(packages / "ru_session" / "tape.csv.gz")
    assert rules(["search", "--strategy", "ru_large.py", "--bars", tape, "--trials", "1"]) == 0
    assert "    1  volume 12345, fast 10, slow 50: Sharpe ratio " in capsys.readouterr().err


def test_values_at_which_a_rule_fails_are_left_out_with_the_line_and_the_others_are_judged(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8").replace("ru_session", "ru_fails")
    line = "        choice"
    assert source.count(line) == 1
    number = source[: source.index(line)].count("\n") + 1
    fails = source.replace(line, "        if self.fast == 20:\n            raise KeyError('fast')\n" + line)
    (tmp_path / "ru_fails.py").write_text(fails, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    common = ["--strategy", "ru_fails.py", "--bars", str(packages / "ru_session" / "tape.csv.gz")]
    assert rules(["sweep", *common, "--set", "parameters.fast=5,20"]) == 0
    printed = capsys.readouterr()
    assert f"left out: KeyError: 'fast' ({tmp_path / 'ru_fails.py'}, line {number + 1})" in printed.err
    swept = json.loads(Path(printed.out.strip()).read_text(encoding="utf-8"))
    assert [trial["values"] for trial in swept["trials"]] == [{}, {"parameters.fast": 5}]


def test_a_search_that_a_person_stops_says_that_the_next_one_begins_anew(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8").replace("ru_session", "ru_stops")
    stops = source.replace("        choice", "        __import__('signal').raise_signal(2)\n        choice")
    (tmp_path / "ru_stops.py").write_text(stops, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    common = ["--strategy", "ru_stops.py", "--bars", str(packages / "ru_session" / "tape.csv.gz")]
    assert rules(["search", *common, "--trials", "2"]) == 130
    printed = capsys.readouterr()
    assert (printed.out, "begins anew" in printed.err, "go on" in printed.err) == ("", True, False)
    assert not (tmp_path / "runs").exists()


def test_what_is_a_rule_s_command_is_known_by_its_strategy(packages: Path) -> None:
    path = str(packages / "ru_session" / "ru_session.py")
    assert of_rule(["--strategy", path, "--bars", "x"])
    assert of_rule(["search", "--strategy", path])
    assert not of_rule(["analyse", "lookahead", "--strategy", path])
    assert not of_rule(["--strategy", "option_scalper"])
    assert not of_rule(["--help"])


def test_a_session_before_which_longer_values_are_not_warm_earns_nothing(packages: Path, tmp_path: Path) -> None:
    task = task_of(packages, "session", tmp_path)
    dates, _ = folds_of(task, print)
    late = play_trial(task, {"parameters.slow": 90}, dates)  # of 50 by default: 40 sessions later
    assert set(late.returns[:40]) == {0.0}
    assert len(late.returns) == len(dates)
    assert late.trades > 0


def trial(name: int, *returns: float) -> RuleTrial:
    return RuleTrial(values={"parameters.fast": name} if name else {}, returns=returns, trades=1)


def test_each_fold_takes_what_was_best_before_its_test(packages: Path, tmp_path: Path) -> None:
    """By hand: 5 wins before the first test and loses in it; 20 wins once that loss is seen."""
    task = task_of(packages, "session", tmp_path)
    dates, _ = folds_of(task, print)
    dates = dates[:8]
    trials = [
        trial(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        trial(5, 0.02, 0.01, 0.02, 0.01, -0.10, -0.10, 0.03, 0.03),
        trial(20, 0.001, -0.001, 0.002, 0.001, 0.01, 0.02, 0.01, -0.02),
    ]
    folds = [Fold(dates[:2], dates[2:4], dates[4:6]), Fold(dates[:4], dates[4:6], dates[6:])]
    study = study_of_trials(task, "sweep", dates, folds, trials)
    assert [fold.values for fold in study.walk] == [{"parameters.fast": 5}, {"parameters.fast": 20}]
    assert [fold.net_return for fold in study.walk] == pytest.approx([0.9 * 0.9 - 1, 1.01 * 0.98 - 1])
    assert study.best == 2  # the mean of 5 is below 0
    assert study.deflated.trials == 3
    assert np.isfinite(study.deflated.deflated)


def test_a_store_s_ledger_counts_each_trial_once(packages: Path, tmp_path: Path) -> None:
    task = task_of(packages, "session", tmp_path)
    dates, folds = folds_of(task, print)
    trials = [play_trial(task, {}, dates), play_trial(task, {"parameters.fast": 20}, dates)]
    first = study_of_trials(task, "sweep", dates, folds, trials)
    again = study_of_trials(task, "sweep", dates, folds, trials)
    assert (first.deflated.trials, again.deflated.trials) == (2, 2)
    assert len((tmp_path / "ru_session" / "ledger.jsonl").read_text().splitlines()) == 2


def test_an_exported_rule_s_test_is_in_the_ledger_once(packages: Path, tmp_path: Path) -> None:
    task = task_of(packages, "session", tmp_path)
    version, _ = export_rule(task, "sip", lambda _: None)
    export_rule(task, "sip", lambda _: None)
    manifest = decode((version / MANIFEST_FILE).read_bytes())
    lines = Ledger(ledger_path(tmp_path, task.strategy)).read().lines
    assert [(line.kind, line.first, line.last) for line in lines] == [
        (kind, *manifest.training.splits["test"]) for kind in ("opening", "trial")
    ]
    assert lines[1].sharpe == pytest.approx(manifest.metrics["sharpe_annual"] / np.sqrt(252))


def test_a_default_that_is_written_anew_keeps_the_version_and_both_values_are_named(
    packages: Path, tmp_path: Path
) -> None:
    task = task_of(packages, "session", tmp_path)
    manifest = decode((export_rule(task, "sip", lambda _: None)[0] / MANIFEST_FILE).read_bytes())
    spec, trading = strategy(task.strategy).spec, trading_for(task.strategy)
    assert warnings(manifest, spec, trading) == ()
    text = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8")
    assert "kit.Parameter(10, " in text  # the declared default, with which it is made
    changed = tmp_path / "ru_changed.py"
    changed.write_text(text.replace("kit.Parameter(10, ", "kit.Parameter(12, "), encoding="utf-8")
    with forgotten_again():
        add(str(changed))
        assert contract_hash(strategy(task.strategy)) == manifest.contract_hash
        (words,) = warnings(manifest, strategy(task.strategy).spec, trading)
        assert words.startswith("it was exported with fast 10, this desk's strategy has fast 12: what its test earned")
        assert warnings(msgspec.structs.replace(manifest, values={}), spec, trading) == ()  # of a former release


def test_the_manifest_has_numbers_of_an_own_strategy_in_clear_and_no_text(packages: Path, tmp_path: Path) -> None:
    task = task_of(packages, "session", tmp_path)
    code = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8")
    head, assigned, rest = code.partition("        self.fast, self.slow")
    assert assigned
    keeps = '        self.rate = 0.25\n        self.login = "s3cret-of-mine"\n        self.by_host = {"a": b"t0ken"}\n'
    changed = tmp_path / "ru_changed.py"
    changed.write_text(f"{head}{keeps}{assigned}{rest}", encoding="utf-8")
    with forgotten_again():
        add(str(changed))
        data = (export_rule(task, "sip", lambda _: None)[0] / MANIFEST_FILE).read_bytes()
    values = json.loads(data)["values"]
    assert values["rate"] == 0.25
    assert {*values} >= {"login", "by_host"}
    assert b"s3cret" not in data
    assert b"dDBrZW4" not in data  # t0ken in base64


def test_a_damaged_version_is_replaced_and_one_of_another_contract_stays(packages: Path, tmp_path: Path) -> None:
    task = task_of(packages, "session", tmp_path)
    version, _ = export_rule(task, "sip", lambda _: None)
    manifest = version / MANIFEST_FILE
    whole = manifest.read_bytes()
    manifest.write_text("{")
    assert export_rule(task, "sip", lambda _: None)[0] == version
    assert manifest.read_bytes() == whole
    contract = json.loads(whole)["contract_hash"]
    manifest.write_bytes(whole.replace(contract.encode(), b"0" * len(contract)))
    with pytest.raises(ExportError, match=f"{version.name} is in .* with the contract 000000000000"):
        export_rule(task, "sip", lambda _: None)
    assert json.loads(manifest.read_bytes())["contract_hash"] == "0" * len(contract)
    assert {path.name for path in version.parent.iterdir()} == {version.name, LEDGER_FILE}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("return state, kit.Rebalance(choice, name, basket)", "return None", "NoneType object (what decide returned)"),
        ("name = ACTIONS[choice.action]", "raise KeyError('tenth')", "KeyError: 'tenth' (PLACE, line LINE)"),
        ("PORTFOLIOS[name], kit", "(float('nan'), 1.0), kit", "weights are (nan, 1.0) for SPY, QQQ: expected a finite"),
        ("PORTFOLIOS[name], kit", "(0.5,), kit", "weights are (0.5,) for SPY, QQQ: expected a finite number for each"),
        ('SYMBOLS = ("SPY", "QQQ")', 'SYMBOLS = ("SPY", "QQQX")', "tape.csv.gz has no bar of QQQX, but of SPY: wrong_"),
    ],
)
def test_a_mistake_in_a_strategy_is_one_line_that_names_it(
    right: str, wrong: str, message: str, packages: Path, tmp_path: Path
) -> None:
    source = (packages / "ru_session" / "ru_session.py").read_text(encoding="utf-8")
    assert right in source
    (tmp_path / "wrong_rule.py").write_text(source.replace(right, wrong).replace('"ru_session"', '"wrong_rule"'))
    tape = str(packages / "ru_session" / "tape.csv.gz")
    line = [sys.executable, "-m", "training", "--strategy", "wrong_rule.py", "--bars", tape]
    environment = {"PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
    result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    line_of = str(source[: source.index(right)].count("\n") + 1)
    assert (
        message.replace("PLACE", str(tmp_path / "wrong_rule.py")).replace("LINE", line_of)
        in result.stderr.splitlines()[-1]
    )
