"""Declared parameters: what is a value of one, their canonical text, and what a strategy made with them is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.config.load import ConfigError, load
from daemon.config.strategy import describe, strategy_of
from strategies.golden import contract_hash
from strategies.kit.entry import OwnStrategyError
from strategies.kit.parameters import Parameter, given_by, text_of, values_of, words_of
from strategies.registry import add, strategy
from tests.support.own.files import forgotten_again, write_strategy

DECLARED = {"fast": Parameter(10, 2, 60), "edge": Parameter(0.5, 0.0, 1.0), "short": Parameter(default=False)}


@pytest.fixture(autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    """The registry forgets what a test added."""
    with forgotten_again() as patched:
        yield patched


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("fast", "20", 20),
        ("fast", 20.0, 20),
        ("fast", "2.5", None),
        ("fast", "1", None),
        ("fast", "61", None),
        ("fast", "true", None),
        ("fast", "x", None),
        ("fast", "9" * 400, None),
        ("edge", "1", 1.0),
        ("edge", "nan", None),
        ("edge", "NaN", None),
        ("edge", "1.1", None),
        ("edge", "9" * 400, None),
        ("short", "true", True),
        ("short", "1", None),
    ],
)
def test_a_value_has_the_type_of_the_default_and_lies_within_the_bounds(
    name: str, given: object, taken: object
) -> None:
    value = DECLARED[name].taken(given)
    assert (value, type(value)) == (taken, type(taken))


def test_the_canonical_text_has_what_differs_in_one_order() -> None:
    assert text_of(DECLARED, {"fast": "10", "edge": 0.5, "short": False}) == ""
    one = text_of(DECLARED, given_by(("short=true", "fast = 20")))
    assert one == text_of(DECLARED, {"fast": 20, "short": True}) == '{"fast":20,"short":true}'
    assert text_of(DECLARED, {"edge": "-0.0"}) == text_of(DECLARED, {"edge": "0"}) == '{"edge":0.0}'
    assert values_of(DECLARED, one) == {"fast": 20, "edge": 0.5, "short": True}
    assert words_of(DECLARED, one) == "fast 20 (default 10), edge 0.5, short True (default False)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fats=20",), "the strategy declares no parameter fats: did you mean fast"),
        (("fast=1",), "the parameter fast is 1, expected a whole number from 2 to 60"),
        (("short=2",), "the parameter short is 2, expected true or false"),
        (("fast",), "'fast': expected each parameter once, as NAME=VALUE"),
        (("fast=3", "fast=4"), "'fast=4': expected each parameter once"),
    ],
)
def test_what_is_no_value_of_a_parameter_is_named_with_the_cure(words: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        text_of(DECLARED, given_by(words))


def write_file(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A rule of the template, with its parameters `fast` and `slow`."""
    patch.chdir(folder)
    assert ctl.main(["new-strategy", "pa", "--cadence", "session", "--holds", "shares", "--template", "plain"]) == 0
    return folder / "pa" / "pa.py"


def test_a_desk_sets_them_and_at_their_defaults_nothing_is_different(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path, patch)
    add(str(path))
    usual, other = strategy("pa"), strategy("pa", (), '{"slow":100}')
    assert (usual.spec.config, usual.spec.history_bars, other.spec.history_bars) == ("", 50, 100)
    assert contract_hash(usual) != contract_hash(other)

    def desk(words: list[str]) -> str:
        settings = load(None, {"desk.strategy": str(path), "desk.parameters": words}, {})
        maker = strategy_of(settings)
        assert "parameters: fast" in describe(maker)
        return contract_hash(maker)

    assert desk([]) == desk(["slow=50"]) == contract_hash(usual)
    assert desk(["slow=100"]) == contract_hash(other)


@pytest.mark.parametrize("words", [[], ["slow=50"]])
def test_at_its_declared_defaults_it_is_made_with_them_whatever_its_constructor_has(
    tmp_path: Path, patch: pytest.MonkeyPatch, words: list[str]
) -> None:
    path = write_file(tmp_path, patch)
    text = path.read_text()
    path.write_text(text.replace("slow: int = 50", "slow: int = 100"))
    assert path.read_text() != text
    made = strategy_of(load(None, {"desk.strategy": str(path), "desk.parameters": words}, {}))
    assert made.spec.history_bars == 50  # as many as the slow average has days
    assert "slow 50" in describe(made)


def test_made_for_a_desk_s_symbols_it_shows_the_values_that_its_object_has(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path, patch)
    maker = "\n\ndef of(symbols):\n    made = Pa(slow=100)\n"
    maker += "    made.spec = msgspec.structs.replace(made.spec, symbols=symbols)\n    return made\n"
    maker += "\n\nSTRATEGY = STRATEGY._replace(with_symbols=of)\n"
    path.write_text(path.read_text().replace("import numpy as np", "import msgspec\nimport numpy as np", 1) + maker)
    made = strategy_of(load(None, {"desk.strategy": str(path), "desk.symbols": ["AAPL", "MSFT"]}, {}))
    assert "fast 10, slow 100 (default 50)" in describe(made)


@pytest.mark.parametrize(
    ("argument", "words", "expected"),
    [
        ("pa", ["slow=10"], r"desk\.parameters is .*the parameter slow is 10, expected a whole number from 20 to 250"),
        ("pa", ["slwo=30"], r"declares no parameter slwo: did you mean slow"),
        ("option_scalper", ["slow=30"], r"declares no parameter slow: it has none"),
    ],
)
def test_a_desk_that_sets_another_number_does_not_start(
    tmp_path: Path, patch: pytest.MonkeyPatch, argument: str, words: list[str], expected: str
) -> None:
    path = str(write_file(tmp_path, patch)) if argument == "pa" else argument
    with pytest.raises(ConfigError, match=expected):
        load(None, {"desk.strategy": path, "desk.parameters": words}, {})


@pytest.mark.parametrize(
    ("maker", "expected"),
    [
        ("Pa(**values, more=1)", r"TypeError: .*'more': correct how it is made"),
        ("5", r"AttributeError: .*: correct how it is made"),
        ("Renamed(**values)", r"spec\.name is 'other': give it one name"),
        ("Short(**values)", r"spec\.history_bars is -1: expected 1 or more of days"),
    ],
)
def test_a_strategy_that_cannot_be_made_with_a_desk_s_numbers_is_refused_by_them(
    tmp_path: Path, patch: pytest.MonkeyPatch, maker: str, expected: str
) -> None:
    path = write_file(tmp_path, patch)
    made = f"lambda values: {maker} if values['slow'] == 100 else Pa(**values)"
    text = path.read_text().replace("lambda values: Pa(**values)", made)
    spec = "self.spec = msgspec.structs.replace(self.spec, {})"
    for name, change in (("Renamed", "name='other'"), ("Short", "history_bars=-1")):
        text = text.replace(
            "STRATEGY = ",
            f"class {name}(Pa):\n    def __init__(self, **values):\n"
            f"        super().__init__(**values)\n        {spec.format(change)}\n\n\nSTRATEGY = ",
            1,
        )
    path.write_text(text.replace("import numpy as np", "import msgspec\nimport numpy as np", 1))
    problem = rf"desk\.parameters is .*pa cannot be made with {{'fast': 10, 'slow': 100}}: {expected}"
    with pytest.raises(ConfigError, match=problem):
        load(None, {"desk.strategy": str(path), "desk.parameters": ["slow=100"]}, {})


@pytest.mark.parametrize(
    ("maker", "expected"),
    [
        ("lambda symbols: 1 / 0", "ZeroDivisionError: division by zero: correct how it is made"),
        ("lambda symbols: None", "NoneType is no strategy: state_type, start, observe, decide, correct is missing"),
        ("lambda symbols: ToyKeeper()", r"its spec\.symbols is \('SPY',\): correct with_symbols"),
    ],
)
def test_a_strategy_that_cannot_be_made_for_a_desk_s_symbols_is_refused_by_them(
    tmp_path: Path, maker: str, expected: str
) -> None:
    after = f"\nSTRATEGY = STRATEGY._replace(with_symbols={maker})\n"
    path = write_strategy(tmp_path / "mine_s.py", "mine_s", after=after)
    problem = rf"desk\.symbols is .*mine_s cannot be made with \('QQQ',\): {expected}"
    with pytest.raises(ConfigError, match=problem):
        load(None, {"desk.strategy": str(path), "desk.symbols": ["QQQ"]}, {})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('parameters={"fast": kit.Parameter(10)}', "has parameters or with_parameters alone: give both"),
        (
            'parameters={"fast": kit.Parameter(1, 2, 60)}, with_parameters=lambda values: ToyKeeper()',
            "'fast' has the default 1, expected .* a whole number from 2 to 60 for its default",
        ),
        (
            'parameters={"fast": 10}, with_parameters=ToyKeeper',
            "the parameter 'fast' is 10, expected a kit.Parameter of",
        ),
        (
            'parameters={"fast": kit.Parameter("10")}, with_parameters=ToyKeeper',
            "the parameter 'fast' is Parameter.*'10'.* expected a kit.Parameter of numbers",
        ),
        (
            'parameters={"fast": kit.Parameter(10, "2")}, with_parameters=ToyKeeper',
            "the parameter 'fast' is Parameter.*'2'.* expected a kit.Parameter of numbers",
        ),
        ('parameters=["fast"], with_parameters=ToyKeeper', r"its parameters are \['fast'\], expected a dict"),
        ("training=kit.RULE", "a rule answers by the last numbers of its observation"),
    ],
)
def test_a_declaration_that_cannot_be_is_told_when_the_file_is_read(tmp_path: Path, more: str, expected: str) -> None:
    after = f"\n\nfrom strategies import kit\nSTRATEGY = kit.StrategyEntry(ToyKeeper, {{}}, desk='d', {more})\n"
    with pytest.raises(OwnStrategyError, match=expected):
        add(str(write_strategy(tmp_path / "mine_p.py", "mine_p", after=after)))
