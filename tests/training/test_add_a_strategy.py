"""A strategy is one file and one line, and with training one object more: shown with a toy."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.strategy_rules import trading_for
from simulator.desks_by_hand import desk_of
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, decode
from strategies.registry import STRATEGIES, strategy
from tests.support.desks.desk_run import Desk, table, verified
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import days, write_days
from training.analysis.subjects import subject_named
from training.cli.main import main
from training.desks.registry import kind

TOY = "toy_keeper"
SHIPPED = tuple(STRATEGIES)
OF_ONLINE_DQN = (
    "daemon/config/strategy.py",
    "simulator/online/show.py",
    "training/analysis/subjects.py",
    "training/cli/analyse.py",
    "training/cli/learn/command.py",
    "training/cli/options.py",
    "training/online/beginning.py",
    "training/online/command.py",
    "training/online/labels.py",
    "training/online/planted.py",
    "training/online/publish.py",
    "training/online/work.py",
)
"""The rooms of learning from a live desk, whose one strategy this is, and the readers of its `model_config`."""
OF_FORECAST_ENSEMBLE = (
    "training/analysis/forecast_minutes.py",
    "training/forecast/findings.py",
    "training/forecast/panel.py",
    "training/forecast/risk.py",
)
"""The rooms of the forecaster, whose one strategy this is."""
SESSIONS = 60
ASKING = ("once_a_session", "shares_by_bar", "option_by_bar")
"""The functions that tell the kinds of desk apart; all other code looks a fact up, or calls `by_kind`."""


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    """The one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STRATEGIES, TOY, "tests.support.toy.strategy")
        yield


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up days of SPY."""
    return write_days(tmp_path_factory.mktemp("tape") / "spy.csv", ("SPY",), days("2024-01-02", "2024-12-31", SESSIONS))


@pytest.fixture(scope="module")
def version(tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train-and-export` made of the toy."""
    home = tmp_path_factory.mktemp("home")
    command = ["--strategy", TOY, "--bars", str(tape), "--out", str(home / "store"), "--run-dir", str(home / "run")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*command, "--processes", "1"])
    assert code == 0, err.getvalue()
    return Path(out.getvalue().strip())


def test_a_registered_strategy_is_trained_and_exported_under_its_contract(version: Path) -> None:
    manifest = decode((version / MANIFEST_FILE).read_bytes())
    assert (manifest.strategy, manifest.actions) == (TOY, ("CASH", "SPY"))
    assert manifest.contract_hash == contract_hash(strategy(TOY))
    assert manifest.training.sessions == SESSIONS - 6  # six warm it up
    assert manifest.reference is not None
    assert manifest.reference.actions.name == "actions"
    assert (version / "report.html").is_file()


def test_its_model_is_replayed_by_the_daemon_and_verifies(version: Path, tape: Path, tmp_path: Path) -> None:
    store = version.parents[1]
    options = {"desk__strategy": TOY, "paths__models_dir": store, "policy__version": version.name}
    desk = Desk(tape, **options, paper__cash_usd=50_000)
    assert desk.run(tmp_path / "state").failure is None
    assert len(table(tmp_path / "state", "decisions")) == SESSIONS - 6
    assert verified(tmp_path / "state").difference == ""


def test_its_own_defaults_are_in_force_everywhere(tape: Path) -> None:
    rules = trading_for(TOY)
    assert (float(rules.paper.cash_usd), rules.risk.drawdown_max) == (50_000.0, 0.6)
    desk = desk_of(TOY)
    assert (int(desk.cash), desk.shares, desk.margin) == (50_000, ("SPY",), 1)
    assert subject_named(TOY).name == TOY
    assert tuple(kind(TOY).presets) == ("smoke",)


def _modules(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    for room in rooms:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_bytes())


def test_no_code_but_its_own_and_the_registries_knows_a_strategy_by_its_name() -> None:
    paths = ("strategies/registry.py", "training/desks/", "training/gym/", *(f"strategies/{name}" for name in SHIPPED))
    files = tuple(f"strategies.{name}" for name in SHIPPED)
    names = set()
    for name, module in _modules("daemon", "simulator", "strategies", "training"):
        if name.startswith(paths):
            continue
        for node in ast.walk(module):
            names_strategy = isinstance(node, ast.Constant) and node.value in SHIPPED
            imported = isinstance(node, ast.ImportFrom) and (
                (node.module or "").startswith(files)
                or (node.module == "strategies" and any(alias.name in SHIPPED for alias in node.names))
            )
            if names_strategy or imported:
                names.add(name)
    assert sorted(names) == sorted(
        {
            "daemon/config/tables.py",  # the strategy of a desk whose configuration names none
            "daemon/cli/init/command.py",  # the one that a newcomer is offered first
            *OF_ONLINE_DQN,
            *OF_FORECAST_ENSEMBLE,
        }
    )


def _asks(node: ast.AST) -> bool:
    """Whether a node asks for the kind of a desk: compares its words, or calls one of the functions that do.

    Whether two desks are of one kind is another question.
    """
    match node:
        case ast.Compare(left=left, comparators=comparators, ops=ops):
            words = {
                part.attr for side in (left, *comparators) for part in ast.walk(side) if isinstance(part, ast.Attribute)
            }
            sides = [ast.unparse(side) for side in (left, *comparators)]
            kind = any("spec.kind" in side for side in sides) and not all(side.endswith(".kind") for side in sides)
            return (kind or not words.isdisjoint(("decides", "holds"))) and not isinstance(ops[0], ast.In | ast.NotIn)
        case ast.Call(func=ast.Name("isinstance")):
            return any(spec in ast.unparse(node) for spec in ("DailySpec", "ShareSpec"))
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)):
            return name in ASKING
    return False


def test_at_most_five_functions_ask_for_the_kind_of_a_desk() -> None:
    functions = {
        (name, inner.name)
        for name, module in _modules("daemon", "simulator", "strategies", "training")
        for inner in ast.walk(module)
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_asks, ast.walk(inner)))
    }
    assert functions == {("strategies/registry.py", name) for name in (*ASKING, "by_kind", "daily_strategy")}
