"""A strategy of one's own is found by its file or its package; what is wrong with it is an error and no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.app.live.model_choice import check_still_held
from daemon.config.load import ConfigError, load
from daemon.config.strategy import strategy_of
from daemon.core.strategy_rules import trading_for
from daemon.engine.recover import code_digest
from daemon.host.lean import without_pandas
from daemon.journal.journal import Journal
from daemon.journal.rows import STRATEGY_SPEC
from strategies.golden import check_golden, contract_hash
from strategies.kit.entry import OwnStrategyError
from strategies.kit.own import load as load_own
from strategies.kit.own.load import libraries_of
from strategies.kit.own.stand_in import StandIn, spec_text
from strategies.registry import (
    VARIABLE,
    add,
    configured,
    declaration,
    entry,
    names,
    own,
    places,
    remember,
    stand_in,
    strategy,
)
from tests.support.core.daily_desk import Shelf
from tests.support.core.fractions_desk import played
from tests.support.own.files import forgotten_again, install, write_strategy


@pytest.fixture(autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    """The registry forgets what a test added."""
    with forgotten_again() as patched:
        yield patched


@pytest.mark.parametrize("suffix", ["", ":STRATEGY", ":ToyKeeper"])
def test_a_file_is_known_by_the_name_of_its_spec(tmp_path: Path, suffix: str) -> None:
    path = write_strategy(tmp_path / "mine_a.py", "mine_a")
    assert add(f"{path}{suffix}") == "mine_a"
    assert strategy("mine_a").spec.name == "mine_a"
    assert declaration("mine_a")["basket"] == "all or nothing in whole shares"
    assert float(trading_for("mine_a").paper.cash_usd) == 50_000.0
    source = own("mine_a")
    assert source is not None
    assert (source.place, source.package, source.sources) == (f"{path}:STRATEGY", "", (path,))
    assert add(str(path)) == "mine_a"  # twice is once


def test_the_contract_hash_keeps_it_apart_from_any_other(tmp_path: Path) -> None:
    for name in ("mine_b", "mine_c"):
        add(str(write_strategy(tmp_path / f"{name}.py", name)))
    assert contract_hash(strategy("mine_b")) != contract_hash(strategy("mine_c"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = (\n", r"mine_d\.py, line \d+: '\(' was never closed: correct that line"),
        ("import no_such_library\n", r"mine_d\.py, line 1: .*ModuleNotFoundError.*: install no_such_library, or corr"),
        ("x = 1\ny = x / 0\n", r"mine_d\.py, line 2: cannot be imported: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')\n", r"mine_d\.py, line 3: cannot be imported: JSONDecodeError"),
        ("import sys\nsys.exit(3)\n", r"mine_d\.py, line 2: cannot be imported: SystemExit: 3"),
        ("x = 1\n", r"mine_d\.py: has no STRATEGY: give it STRATEGY = StrategyEntry\(\.\.\.\)"),
        ("STRATEGY = 5\n", r"mine_d\.py: STRATEGY is no StrategyEntry"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_line_and_cause(tmp_path: Path, code: str, expected: str) -> None:
    (tmp_path / "mine_d.py").write_text(code)
    with pytest.raises(OwnStrategyError, match=expected):
        add(str(tmp_path / "mine_d.py"))


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ('symbols=("SPY",)', 'symbols="SPY"', r"spec\.symbols is 'SPY': expected `tuple`, got `str`: correct it"),
        ('symbols=("SPY",)', 'symbols=("SPY", "SPY")', r"spec\.symbols is \('SPY', 'SPY'\): expected each symbol once"),
        ('symbols=("SPY",)', "symbols=()", r"spec\.symbols is \(\): expected such as \('SPY', 'QQQ'\)"),
        ("history_bars=HISTORY_BARS", "history_bars=6.5", r"spec\.history_bars is 6\.5: expected `int`"),
        ('dtype="float32"', 'dtype="float64"', r"spec\.dtype is 'float64': expected 'float32'"),
        ("temperature=1.0", "temperature=0.0", r"spec\.temperature is 0\.0: expected a number above 0"),
        ("temperature=1.0", "temperature=1.0, recurrent_shape=8", r"spec\.recurrent_shape is 8: expected"),
        (
            "temperature=1.0",
            "temperature=1.0, rows_are_symbols=True",
            r"spec\.rows_are_symbols is True, and .* no with_symbols",
        ),
        ('desk="toy"', 'desk="../toy"', r"desk of its StrategyEntry is '\.\./toy': expected letters"),
        (
            "defaults=defaults_of_days(SPEC.capital_usd)",
            'defaults={"risk": 5}',
            r"defaults\['risk'\] of its .* is 5",
        ),
        ('"tests.support.toy.desk:KIND"', "5", r"training of its StrategyEntry is 5: expected a str"),
        ("DECLARATION,", "{'a': object()},", r"declaration of its StrategyEntry: .*: expected text, numbers"),
    ],
)
def test_a_declaration_that_cannot_be_is_named_with_key_value_and_cure(
    tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    path = write_strategy(tmp_path / "mine_decl.py", "mine_decl")
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    with pytest.raises(OwnStrategyError, match=rf"mine_decl\.py: {expected}"):
        add(str(path))


def test_a_start_that_raises_is_named_with_the_file(tmp_path: Path) -> None:
    after = "ToyKeeper.start = lambda _: 1 / 0\n"
    path = write_strategy(tmp_path / "mine_start.py", "mine_start", after=after)
    with pytest.raises(OwnStrategyError, match=r"mine_start\.py: its start\(\) raises ZeroDivisionError: division by"):
        add(str(path))


@pytest.mark.parametrize("where", ["__init__", "start"])
def test_a_file_that_ends_the_program_where_it_is_made_is_named(tmp_path: Path, where: str) -> None:
    after = f"ToyKeeper.{where} = lambda _: exit(0)\n"
    path = write_strategy(tmp_path / "mine_leaving.py", "mine_leaving", after=after)
    with pytest.raises(OwnStrategyError, match=r"mine_leaving\.py: .*SystemExit"):
        add(str(path))


def test_a_file_whose_import_does_not_end_is_named_with_its_line(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    path = write_strategy(tmp_path / "mine_waiting.py", "mine_waiting", after="import time\ntime.sleep(600)\n")
    last_line = len(path.read_text().splitlines())
    expected = (
        rf"mine_waiting\.py, line {last_line}: cannot be imported: ImportTooSlow: its import takes longer than 0.2 s"
    )
    for limit_s in (0.2, 600.0):  # the second time it is not waited for
        patch.setattr(load_own, "IMPORT_MOST_S", limit_s)
        with pytest.raises(OwnStrategyError, match=expected):
            add(str(path))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_what_a_file_prints_and_sets_where_it_is_imported_reaches_no_command_s_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_strategy(tmp_path / "mine_talking.py", "mine_talking")
    lines = ("import decimal, os", "print('hello')", "decimal.getcontext().prec = 3", "os.chdir('/')")
    path.write_text("\n".join((path.read_text(), *lines)) + "\n")
    here = Path.cwd()
    assert add(str(path)) == "mine_talking"
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
    assert str(Decimal("12345.67") + 1) == "12346.67"
    assert Path.cwd() == here


@pytest.mark.parametrize("call", ["__init__", "start", "remember", "observe", "decide"])
def test_a_call_of_a_file_s_code_leaves_working_folder_and_standard_output_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    """A command's relative paths lead where they led: a tape, a store of models. Its JSON is valid."""
    goes = f"""

class Goes(ToyKeeper):
    def {call}(self, *arguments):
        import os
        os.chdir('/')
        print('hello')
        return super().{call}(*arguments)


STRATEGY = STRATEGY._replace(make=Goes)
"""
    here = Path.cwd()
    add(str(write_strategy(tmp_path / "mine_goes.py", "mine_goes", after=goes)))
    check_golden(strategy("mine_goes"))
    assert Path.cwd() == here
    printed = capsys.readouterr()
    assert (printed.out, "hello" in printed.err) == ("", True)


def test_a_process_that_a_strategy_forks_ends_where_it_comes_back(tmp_path: Path) -> None:
    forks = """

class Forks(ToyKeeper):
    children = []

    def observe(self, *arguments):
        import os
        if not self.children:
            self.children.append(os.fork())
        return super().observe(*arguments)


STRATEGY = STRATEGY._replace(make=Forks)
"""
    path = write_strategy(tmp_path / "mine_forks.py", "mine_forks", after=forks)
    program = f"""
from strategies.golden import check_golden
from strategies.registry import add, strategy

check_golden(strategy(add({str(path)!r})))
print("here", flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout == "here\n"
    assert "a process that the strategy forked came back" in ran.stderr


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("observe", "weight = __import__('random').random()"),
        ("observe", "weight = __import__('time').time_ns() % 1e9"),
        ("decide", "goal = __import__('random').randrange(10**9)"),
        ("decide", "CALLS.append(1); goal = len(CALLS)"),
    ],
)
def test_a_file_that_no_replay_can_follow_is_refused_before_it_is_trained(tmp_path: Path, call: str, line: str) -> None:
    file = write_strategy(tmp_path / "mine_draws.py", "mine_draws", after="\n\nCALLS = []\n")
    place = {"observe": "        data = np.array(", "decide": "        keeps = ("}[call]
    add(str(file))
    check_golden(strategy("mine_draws"))
    file.write_text(file.read_text().replace('"mine_draws"', '"mine_drawn"').replace(place, f"        {line}\n{place}"))
    add(str(file.rename(tmp_path / "mine_drawn.py")))
    with pytest.raises(ValueError, match=rf"nothing is trained: asked to {call} twice .*: it draws random numbers"):
        check_golden(strategy("mine_drawn"))


def test_a_file_that_is_not_there_and_a_name_that_is_not_in_it(tmp_path: Path) -> None:
    with pytest.raises(OwnStrategyError, match=r"gone\.py: no such file: correct the path"):
        add(str(tmp_path / "gone.py"))
    path = write_strategy(tmp_path / "mine_e.py", "mine_e")
    with pytest.raises(OwnStrategyError, match=r"has no Keeper: name one of .*ToyKeeper.*STRATEGY"):
        add(f"{path}:Keeper")
    with pytest.raises(OwnStrategyError, match="expected a Python file"):
        add(str(tmp_path))


def test_the_name_of_a_shipped_strategy_and_that_of_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OwnStrategyError, match=r"'regime_switcher', the name of a shipped strategy: choose another"):
        add(str(write_strategy(tmp_path / "mine_f.py", "regime_switcher")))
    add(str(write_strategy(tmp_path / "mine_g.py", "mine_g")))
    with pytest.raises(OwnStrategyError, match=r"'mine_g' is already the name of mine_g \(.*mine_g\.py, digest"):
        add(str(write_strategy(tmp_path / "mine_h.py", "mine_g")))


def test_a_file_named_like_a_module_of_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OwnStrategyError, match=r"the module name 'json' is already taken by .*: rename the file"):
        add(str(write_strategy(tmp_path / "json.py", "mine_i")))


def test_an_unknown_name_is_answered_with_all_that_are_known(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    add(str(write_strategy(tmp_path / "mine_j.py", "mine_j")))
    install(tmp_path / "site", "their-package", "1.2", {"theirs": "their_module:STRATEGY"})
    patch.syspath_prepend(tmp_path / "site")
    expected = r"expected one of: .*mine_j, .*option_scalper, .*theirs; did you mean 'mine_j'\? or name a file"
    with pytest.raises(ValueError, match=expected):
        entry("mine_i")


def test_an_installed_package_offers_its_strategy_by_name(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    write_strategy(tmp_path / "their_module.py", "theirs")
    install(tmp_path, "their-package", "1.2", {"theirs": "their_module:STRATEGY"})
    patch.syspath_prepend(tmp_path)
    assert "theirs" in names()
    assert "their_module" not in sys.modules  # it is imported when it is asked for
    assert add("theirs") == "theirs"
    source = own("theirs")
    assert source is not None
    assert (source.place, source.package) == ("entry point theirs", "their-package 1.2")
    assert str(tmp_path / "their_module.py") in source.shown


def test_packages_that_clash_or_lie_about_a_name_are_refused(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    write_strategy(tmp_path / "their_other.py", "another_name")
    install(tmp_path / "a", "one", "1", {"clash": "their_other:STRATEGY", "option_scalper": "their_other:STRATEGY"})
    install(tmp_path / "b", "two", "2", {"clash": "their_other:STRATEGY", "liar": "their_other:STRATEGY"})
    for folder in (tmp_path, tmp_path / "a", tmp_path / "b"):
        patch.syspath_prepend(folder)
    with pytest.raises(OwnStrategyError, match=r"'clash' is offered by 2 packages \(one 1, two 2\): uninstall all but"):
        add("clash")
    with pytest.raises(OwnStrategyError, match=r"its entry point is 'liar' and its spec\.name is 'another_name'"):
        add("liar")
    assert strategy("option_scalper").spec.name == "option_scalper"
    assert own("option_scalper") is None


def test_the_digest_covers_the_file_and_what_it_imports_next_to_it_alone(tmp_path: Path) -> None:
    (tmp_path / "mine_helper.py").write_text("NUMBER = 1\n")
    (tmp_path / "mine_other.py").write_text("NUMBER = 1\n")
    path = write_strategy(tmp_path / "mine_k.py", "mine_k", before="import mine_helper\n")
    code = (
        "import sys; from strategies.registry import add; from daemon.engine.recover import code_digest; "
        "print(code_digest(add(sys.argv[1])))"
    )

    def digest() -> str:
        line = [sys.executable, "-c", code, str(path)]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    before = digest()
    (tmp_path / "mine_other.py").write_text("NUMBER = 2\n")
    assert digest() == before
    (tmp_path / "mine_helper.py").write_text("NUMBER = 22\n")
    assert digest() != before


def test_the_code_of_a_shipped_strategy_has_the_digest_that_it_had(tmp_path: Path) -> None:
    add(str(write_strategy(tmp_path / "mine_l.py", "mine_l")))
    assert code_digest("option_scalper") == code_digest()
    assert code_digest("mine_l") != code_digest()


def test_a_child_process_finds_it_by_its_name(tmp_path: Path) -> None:
    add(str(write_strategy(tmp_path / "mine_m.py", "mine_m")))
    assert json.loads(os.environ[VARIABLE]) == json.loads(places())
    code = "from strategies.registry import strategy; print(strategy('mine_m').spec.symbols)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "('SPY',)\n"


def test_what_a_state_directory_remembers_is_imported_only_when_no_other_user_could_have_written_it(
    tmp_path: Path,
) -> None:
    path = write_strategy(tmp_path / "mine_n.py", "mine_n", before="import mine_marker\n")
    (tmp_path / "mine_marker.py").write_text("")
    remember("mine_n", f"{path}:STRATEGY")
    for file in (path, tmp_path / "mine_marker.py", tmp_path):
        mode = file.stat().st_mode
        file.chmod(mode | 0o002)
        with pytest.raises(OwnStrategyError, match=rf"another user may write to {file}, .*--strategy .*mine_n\.py"):
            strategy("mine_n")
        file.chmod(mode)
    assert "mine_marker" not in sys.modules
    assert strategy("mine_n").spec.name == "mine_n"


def test_a_remembered_file_that_is_gone_or_holds_another_strategy_is_reported(tmp_path: Path) -> None:
    remember("mine_o", str(tmp_path / "moved.py"))
    with pytest.raises(OwnStrategyError, match=r"moved\.py: no such file: correct the path, or name it with --strat"):
        strategy("mine_o")
    remember("mine_o", str(write_strategy(tmp_path / "mine_p.py", "mine_p")))
    with pytest.raises(OwnStrategyError, match=r"spec\.name is 'mine_p', expected 'mine_o': the file was changed"):
        strategy("mine_o")
    remember("mine_q", "entry point mine_q")
    with pytest.raises(OwnStrategyError, match=r"came with a package .* install that package again, or name its file"):
        strategy("mine_q")


# --- libraries of its own ---------------------------------------------------------------------------------------------


def blocked() -> bool:
    return any(getattr(finder, "for_shipped_alone", False) for finder in sys.meta_path)


@pytest.mark.parametrize(
    ("lines", "libraries"),
    [
        ("import os, numpy, talib, msgspec\n", ()),
        ("import pandas as pd\nfrom scipy.signal import lfilter\n", ("pandas", "scipy")),
        ("from beside import window\n", ("scipy",)),  # what its own file imports
    ],
)
def test_the_libraries_that_a_strategy_brings_are_known_before_it_is_imported(
    tmp_path: Path, lines: str, libraries: tuple[str, ...]
) -> None:
    (tmp_path / "beside.py").write_text("import scipy\nwindow = 3\n")
    path = write_strategy(tmp_path / "mine_l.py", "mine_l", before=lines)
    assert libraries_of(path, tmp_path) == libraries


def test_where_the_daemon_goes_without_pandas_a_strategy_that_imports_it_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    without_pandas()
    add(str(write_strategy(tmp_path / "mine_plain.py", "mine_plain", before="import numpy\n")))
    assert blocked()
    add(
        str(
            write_strategy(tmp_path / "mine_pandas.py", "mine_pandas", before="import pandas\nSERIES = pandas.Series\n")
        )
    )
    assert not blocked()


HOLE = """

def fails(self, state, bars, view):
    if len(bars) < 2 and not any(True for _ in ()):
        raise KeyError("QQQ")
    return OBSERVE(self, state, bars, view)


OBSERVE = ToyKeeper.observe
ToyKeeper.observe = fails
"""


def test_a_strategy_that_falls_into_a_hole_of_the_golden_tape_is_told_so_with_the_line(tmp_path: Path) -> None:
    name = add(str(write_strategy(tmp_path / "mine_hole.py", "mine_hole", after=HOLE)))
    with pytest.raises(
        ValueError, match=r"mine_hole cannot be exported, so nothing is trained: on the golden tape"
    ) as error:
        check_golden(strategy(name))
    assert "KeyError: 'QQQ'" in str(error.value)
    assert "mine_hole.py, line" in str(error.value)
    assert "holes on purpose" in str(error.value)


def test_an_observation_that_is_not_finite_is_told_before_training(tmp_path: Path) -> None:
    after = """

def nan(self, state, bars, view):
    state, found = OBSERVE(self, state, bars, view)
    nans = None if found is None else kit.Observation(bytes.fromhex('0000c07f') * (len(found.data) // 4), found.shape)
    return state, nans


from strategies import kit
OBSERVE = ToyKeeper.observe
ToyKeeper.observe = nan
"""
    name = add(str(write_strategy(tmp_path / "mine_nan.py", "mine_nan", after=after)))
    with pytest.raises(ValueError, match=r"its observation 1 of \d+ has \d+ values that are not finite"):
        check_golden(strategy(name))


def test_what_the_shipped_strategies_see_on_their_golden_tapes_passes() -> None:
    for name in ("daily_rebalancer", "option_scalper"):
        check_golden(strategy(name))


def test_what_stands_in_for_a_file_is_of_the_symbols_that_its_desk_named(tmp_path: Path) -> None:
    made_for = """
from msgspec.structs import replace

class Named(ToyKeeper):
    spec = SPEC
    def __init__(self, symbols):
        self.spec = replace(SPEC, symbols=symbols)

STRATEGY = STRATEGY._replace(with_symbols=Named)
"""
    name = add(str(write_strategy(tmp_path / "mine_named.py", "mine_named", after=made_for)))
    former_spec = spec_text(strategy(name, ("QQQ",)).spec)
    assert stand_in(f"{tmp_path}/mine_named.py:STRATEGY", former_spec, ("QQQ",)) == name
    settings = load(None, {"desk.strategy": name, "desk.symbols": ["QQQ"]}, {})
    assert isinstance(strategy_of(settings), StandIn)
    assert configured(strategy_of(settings).spec) == ("QQQ",)


EDITED = """
from msgspec.structs import replace

from strategies.kit.entry import StrategyEntry
from tests.support.core.daily_desk import Shelf


class Edited(Shelf):
    spec = replace(Shelf.spec, symbols={symbols})


STRATEGY = StrategyEntry(Edited, {{}}, "shelf")
"""


@pytest.mark.parametrize(
    ("symbols", "leftover"), [("AAA BBB", "CCC"), ("CCC", "BBB"), ("CCC BBB", ""), ("AAA BBB CCC DDD", "")]
)
def test_a_file_that_leaves_alone_what_is_held_is_refused_by_its_symbols(
    tmp_path: Path, symbols: str, leftover: str
) -> None:
    """The desk holds BBB and CCC, of AAA, BBB and CCC."""
    journal = Journal(played().write(tmp_path))
    journal.note(STRATEGY_SPEC, spec_text(Shelf.spec))
    journal.close()
    file = tmp_path / "shelf_edited.py"
    file.write_text(EDITED.format(symbols=tuple(symbols.split())))
    values = {"desk.strategy": str(file), "paths.state_dir": str(tmp_path), "desk.account": "paper"}
    settings = load(None, values, {})
    refused = (
        pytest.raises(ConfigError, match=f"the desk holds {leftover} by its former spec") if leftover else nullcontext()
    )
    with refused:
        check_still_held(settings)
