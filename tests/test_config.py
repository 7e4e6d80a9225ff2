"""The settings: three sources in one order, nothing unknown ignored, every error with key, value, source and cure."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import ConfigError, Credentials, Settings, defaults, load
from daemon.core.limits import Trading

SHIPPED = Path(__file__).resolve().parent.parent / "config.toml"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, keys in defaults().items():
        for key in keys:
            monkeypatch.delenv(f"RLTRADER_{section}__{key}".upper(), raising=False)
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    monkeypatch.delenv("APCA_API_SECRET_KEY", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(SHIPPED.read_text())
    assert {section: list(keys) for section, keys in shown.items()} == {
        section: list(keys) for section, keys in defaults().items()
    }
    assert load(SHIPPED, {}) == load(None, {}) == Settings()


def test_every_key_of_the_shipped_file_has_a_comment_that_names_its_default() -> None:
    lines = SHIPPED.read_text().splitlines()
    keys = 0
    for comment, line in itertools.pairwise(lines):
        if match := re.match(r"(\w+) = (.*)", line):
            keys += 1
            assert re.match(r"# \S.{10,} Default: .+\.$", comment), line
            assert comment.endswith(f"Default: {match[2]}."), line
    assert keys == sum(len(section) for section in defaults().values())


def test_the_command_line_beats_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[risk]\nconfidence_min = 0.6\nstale_bar_s = 61\ngap_min = 4\n")
    monkeypatch.setenv("RLTRADER_RISK__CONFIDENCE_MIN", "0.7")
    monkeypatch.setenv("RLTRADER_RISK__STALE_BAR_S", "62")
    risk = load(path, {"risk.confidence_min": 0.8, "risk.spread_max": None}).risk
    assert (risk.confidence_min, risk.stale_bar_s, risk.gap_min, risk.spread_max) == (0.8, 62, 4, 0.10)


def test_values_keep_their_kind_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, '[paper]\norf_usd = 0.02675\n[risk]\nno_trade_windows = ["09:30-09:45"]\n')
    monkeypatch.setenv("RLTRADER_PAPER__CASH_USD", "12345.67")
    monkeypatch.setenv("RLTRADER_RISK__DAILY_LOSS_FLATTEN", "false")
    settings = load(path, {"paths.state_dir": "/var/lib/desk"})
    assert settings.paper.orf_usd == Decimal("0.02675")
    assert settings.paper.cash_usd == Decimal("12345.67")
    assert settings.risk.daily_loss_flatten is False
    assert settings.risk.no_trade_windows == ("09:30-09:45",)
    assert settings.paths.state_dir == Path("/var/lib/desk")
    for text in ("11:00-11:30, 15:00-15:10", '["11:00-11:30", "15:00-15:10"]'):
        monkeypatch.setenv("RLTRADER_RISK__NO_TRADE_WINDOWS", text)
        assert load(path, {}).risk.no_trade_windows == ("11:00-11:30", "15:00-15:10")


def test_trading_is_the_five_tables_and_survives_the_journal() -> None:
    trading = load(None, {"sizing.max_contracts": 3}).trading()
    assert trading.sizing.max_contracts == 3
    assert dataclasses.replace(trading, sizing=Trading().sizing) == Trading()
    assert msgspec.json.decode(msgspec.json.encode(trading), type=Trading) == trading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[risk]\nconfidence_min = 2\n", "risk.confidence_min is 2 (from {file}): expected less than or equal to 1: "),
        ("[risk]\nconfidence_min = 2\n", "change it there (default: 0.5)"),
        ("[risk]\nstale_bar_s = 0\n", "risk.stale_bar_s is 0 (from {file}): expected greater than 0"),
        ('[risk]\nstale_bar_s = "soon"\n', 'risk.stale_bar_s is "soon" (from {file}): expected a valid integer'),
        ("[risk]\nstale_bar_s = 1.5\n", "risk.stale_bar_s is 1.5 (from {file}): expected a valid integer"),
        ("[risk]\nstale_bar_s = true\n", "risk.stale_bar_s is True (from {file}): expected a value like 90"),
        ("[risk]\nspread_max = nan\n", "risk.spread_max is nan (from {file}): expected"),
        ("[sizing]\ntake_profit = inf\n", "sizing.take_profit is inf (from {file}): expected a finite number"),
        (
            '[log]\nlevel = "loud"\n',
            "log.level is \"loud\" (from {file}): expected 'debug', 'info', 'warning' or 'error'",
        ),
        ('[desk]\nname = "My Desk"\n', 'desk.name is "My Desk" (from {file}): expected text that should match'),
        ('[desk]\nstrategy = "scalper"\n', 'desk.strategy is "scalper" (from {file}): expected one of option_scalper'),
        ("[risk]\nno_trade_windows = 5\n", "risk.no_trade_windows is 5 (from {file}): expected a valid tuple"),
        (
            "[contracts]\nmin_days = 6\n",
            "contracts.min_days is 6 (from {file}): expected at most contracts.max_days (5)",
        ),
        (
            "[contracts]\nmax_days = 0\n",
            "contracts.min_days is 1 (from default): expected at most contracts.max_days (0)",
        ),
        (
            "[sizing]\nmin_contracts = 11\n",
            "sizing.min_contracts is 11 (from {file}): expected at most sizing.max_contr",
        ),
        ("[risk]\nno_entry_before_close_min = 7\n", "is 7 (from {file}): expected more than execution.flat_before"),
        ("[execution]\nentry_reprice_s = 181\n", "expected at most execution.entry_deadline_s (180)"),
        (
            "[risk]\nconfidnce_min = 0.5\n",
            "risk.confidnce_min (from {file}) is unknown: did you mean risk.confidence_min?",
        ),
        ("[rsik]\ngap_min = 3\n", "rsik (from {file}) is unknown: did you mean risk?"),
        ("gap_min = 3\n", "gap_min (from {file}) is unknown: did you mean"),
        ("[risk.more]\ngap = 3\n", "risk.more (from {file}) is unknown: did you mean"),
        ("risk = 3\n", "risk is 3 (from {file}): expected a table: write [risk]"),
        ("[risk]\ngap_min = \n", "{file}: is not valid TOML: Invalid value (at line 2, column 11)"),
        ("[risk]\n[risk]\n", "{file}: is not valid TOML: Cannot declare ('risk',) twice (at line 2, column 6)"),
    ],
)
def test_a_bad_file_is_refused_with_key_value_source_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message.format(file=path))):
        load(path, {})


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[risk]\nconfidence_min = 2\ngap_min = 0\n[paper]\ncash_usd = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "risk.confidence_min",
        "risk.gap_min",
        "paper.cash_usd",
    ]


@pytest.mark.parametrize(
    ("window", "good"),
    [
        ("09:30-09:45", True),
        ("00:00-23:59", True),
        ("09:45-09:30", False),
        ("09:30-09:30", False),
        ("9:30-9:45", False),
        ("09:30-24:00", False),
        ("09:30-09:60", False),
        ("09:30 - 09:45", False),
        ("09:30", False),
    ],
)
def test_a_no_trade_window_is_two_times_in_order(window: str, good: bool) -> None:
    if good:
        assert load(None, {"risk.no_trade_windows": [window]}).risk.no_trade_windows == (window,)
    else:
        with pytest.raises(ConfigError, match=f'risk.no_trade_windows is "{window}" .*each as "HH:MM-HH:MM"'):
            load(None, {"risk.no_trade_windows": [window]})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RLTRADER_RISK__CONFIDNCE_MIN", "0.5", "is unknown: did you mean RLTRADER_RISK__CONFIDENCE_MIN?"),
        ("RLTRADER_RISK_CONFIDENCE_MIN", "0.5", "is unknown: did you mean RLTRADER_RISK__CONFIDENCE_MIN?"),
        ("RLTRADER_RISK", "{}", "RLTRADER_RISK (from the environment) is unknown"),
        (
            "RLTRADER_RISK__GAP_MIN",
            "x",
            'risk.gap_min is "x" (from environment RLTRADER_RISK__GAP_MIN): expected a valid',
        ),
        ("RLTRADER_RISK__NO_TRADE_WINDOWS", "[1", 'risk.no_trade_windows is "[1" (from environment'),
    ],
)
def test_a_bad_environment_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(None, {})


def test_the_variable_of_the_tests_own_data_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLTRADER_DATA", "/somewhere")
    assert load(None, {}) == Settings()


def test_an_unknown_key_of_the_command_line_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"paths\.state \(from the command line\) is unknown: did you mean paths\.state_dir"
    ):
        load(None, {"paths.state": "x"})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .* check the path given with --config"):
        load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    "text",
    [
        'APCA_API_KEY_ID = "PKHIDDEN"\n',
        '[broker]\napi_key = "PKHIDDEN"\n',
        '[feed]\nsecret = "PKHIDDEN"\n',
        '[apca]\napi_secret_key = "PKHIDDEN"\n',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is a secret: expected only in the environment variables") as caught:
        load(write(tmp_path, text), {})
    assert "PKHIDDEN" not in str(caught.value)


def test_credentials_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials() == Credentials(api_key_id=None, api_secret_key=None)
    monkeypatch.setenv("APCA_API_KEY_ID", "PKHIDDEN")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "hidden too")
    found = Credentials()
    assert found.api_key_id is not None
    assert found.api_key_id.get_secret_value() == "PKHIDDEN"
    for text in (repr(found), str(found), found.model_dump_json(), repr(found.model_dump())):
        assert "HIDDEN" not in text
        assert "hidden" not in text


@given(st.floats() | st.integers(-3, 3))
def test_a_fraction_is_within_its_bounds_or_refused_by_name(value: float) -> None:
    if 0 <= value <= 1:
        assert load(None, {"risk.confidence_min": value}).risk.confidence_min == value
    else:
        with pytest.raises(ConfigError, match=r"risk\.confidence_min"):
            load(None, {"risk.confidence_min": value})
