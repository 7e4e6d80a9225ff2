"""The settings: three sources in one order, nothing unknown ignored, every error with key, value, source and cure."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.limits_shown import never_enters
from daemon.config.load import (
    NO_STRATEGY,
    ConfigError,
    Credentials,
    DeskSettings,
    credentials,
    defaults,
    load,
    operator_secrets,
    sim_start_ns,
)
from daemon.config.strategy import strategy_of
from daemon.config.tables import ClockTable
from daemon.core.limits import Served, Trading
from daemon.core.paper.fees import config_lines
from daemon.core.strategy_rules import trading_for
from strategies.kit.contract import DailySpec, ShareSpec
from strategies.registry import STRATEGIES, entry, strategy
from tests.support.paths import REPOSITORY
from tests.support.toy.registered import registered

SHIPPED = REPOSITORY / "config.toml"
CHANGES = {name: entry(name).defaults for name in STRATEGIES if entry(name).defaults}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, keys in defaults().items():
        for key in keys:
            monkeypatch.delenv(f"RLTRADER_{section}__{key}".upper(), raising=False)
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    monkeypatch.delenv("APCA_API_SECRET_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    text = SHIPPED.read_text()
    written = tomllib.loads(text)
    for tables in CHANGES.values():  # another default for some strategies: none is written for all
        for table, keys in tables.items():
            assert not written[table].keys() & keys.keys()
    document = tomllib.loads(
        re.sub(r"^# (\w+ = \S+)$", r"\1", text.partition("# One file for desks")[0], flags=re.MULTILINE)
    )
    assert {section: list(keys) for section, keys in document.items()} == {
        section: list(keys) for section, keys in defaults().items()
    }
    assert load(SHIPPED, {}) == load(None, {}) == DeskSettings()


def test_every_key_of_the_shipped_file_has_a_comment_that_names_its_default() -> None:
    lines = SHIPPED.read_text().splitlines()
    keys = 0
    for comment, line in itertools.pairwise(lines):
        if line.startswith("# One file for desks"):
            break
        if match := re.match(r"(# )?(\w+) = (\S.*)$", line):
            keys += 1
            assert re.match(r"# \S.{10,} Default: .+\.$", comment), line
            assert comment.endswith((f"Default: {match[3]}.", f"else {match[3]}.")), line
    assert keys == sum(len(section) for section in defaults().values())


def test_the_shipped_file_explains_each_fee_as_it_is_declared() -> None:
    lines = config_lines().splitlines()
    missing = [pair for pair in zip(lines[::2], lines[1::2], strict=True) if "\n".join(pair) not in SHIPPED.read_text()]
    assert missing == [], "`python -m daemon.core.paper.fees` prints these lines"


def test_the_shipped_file_names_each_strategys_own_default() -> None:
    comments = dict(re.findall(r"^# .* Default: (.+ else .+)\.\n# (\w+) = ", SHIPPED.read_text(), flags=re.MULTILINE))
    comment_of = {key: text for text, key in comments.items()}
    for name, tables in CHANGES.items():
        for keys in tables.values():
            for key, value in keys.items():
                assert f"{value} for" in comment_of[key] or "its own capital" in comment_of[key], (
                    name,
                    key,
                    comment_of[key],
                )


def test_the_command_line_beats_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[risk]\nconfidence_min = 0.6\nstale_bar_s = 61\ngap_min = 4\n")
    monkeypatch.setenv("RLTRADER_RISK__CONFIDENCE_MIN", "0.7")
    monkeypatch.setenv("RLTRADER_RISK__STALE_BAR_S", "62")
    risk = load(path, {"risk.confidence_min": 0.8, "risk.spread_max": None}).risk
    assert (risk.confidence_min, risk.stale_bar_s, risk.gap_min, risk.spread_max) == (0.8, 62, 4, 0.10)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_strategy_starts_with_its_own_defaults_whether_the_shipped_file_is_read_or_not(name: str) -> None:
    chosen = {"desk.strategy": name}
    assert load(SHIPPED, chosen).trading() == load(None, chosen).trading() == trading_for(name)
    spec = strategy(name).spec
    assert isinstance(spec, DailySpec | ShareSpec)
    assert trading_for(name).paper.cash_usd == spec.capital_usd


def test_what_a_strategy_does_not_change_is_as_for_all() -> None:
    assert trading_for("option_scalper") == Trading() == load(SHIPPED, {}).trading()
    assert trading_for("regime_switcher").execution == Trading().execution


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_the_user_writes_into_the_shipped_file_is_in_force(tmp_path: Path, name: str) -> None:
    text = SHIPPED.read_text().replace('strategy = "option_scalper"', f'strategy = "{name}"')
    text = text.replace("# daily_loss_max = 0.1\n", "daily_loss_max = 0.03\n")
    text = text.replace("# drawdown_max = 0.3\n", "drawdown_max = 0.05\n")
    risk = load(write(tmp_path, text), {}).risk
    assert (risk.daily_loss_max, risk.drawdown_max) == (0.03, 0.05)


@pytest.mark.parametrize(
    ("name", "limits", "cash"),
    [
        ("option_scalper", (0.1, 0.3), 10_000),
        ("daily_rebalancer", (0.2, 0.6), 1_000_000),
        ("regime_switcher", (0.2, 0.6), 100_000),
    ],
)
def test_the_shipped_file_as_it_is_gives_each_strategy_its_own_limits(
    name: str, limits: tuple[float, float], cash: int
) -> None:
    settings = load(SHIPPED, {"desk.strategy": name})
    assert (settings.risk.daily_loss_max, settings.risk.drawdown_max) == limits
    assert settings.paper.cash_usd == cash


def test_two_tables_that_disagree_are_refused_for_the_strategy_that_both_are_for(tmp_path: Path) -> None:
    text = "[risk]\ndaily_loss_max = 0.03\ngap_min = 4\n[regime_switcher.risk]\ndaily_loss_max = 0.2\ngap_min = 4\n"
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, {"desk.strategy": "regime_switcher"})
    assert str(caught.value) == (
        f"risk.daily_loss_max is written twice in {path}: daily_loss_max = 0.03 in [risk] and daily_loss_max = 0.2 in "
        "[regime_switcher.risk]: expected one value for a desk of regime_switcher: remove one of them"
    )
    assert load(path, {"desk.strategy": "daily_rebalancer"}).risk.daily_loss_max == 0.03
    assert load(path, {}).risk.gap_min == 4


def test_a_strategys_table_is_for_its_desks_and_the_environment_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[regime_switcher.risk]\ndaily_loss_max = 0.12\ndrawdown_max = 0.3\n")
    assert load(path, {}).risk.daily_loss_max == 0.1
    assert load(path, {"desk.strategy": "regime_switcher"}).risk.daily_loss_max == 0.12
    assert load(path, {"desk.strategy": "daily_rebalancer"}).risk.daily_loss_max == 0.2
    monkeypatch.setenv("RLTRADER_RISK__DAILY_LOSS_MAX", "0.13")
    monkeypatch.setenv("RLTRADER_DESK__STRATEGY", "regime_switcher")
    risk = load(path, {}).risk
    assert (risk.daily_loss_max, risk.drawdown_max) == (0.13, 0.3)


def test_each_value_knows_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "[risk]\ngap_min = 4\n[regime_switcher.risk]\nreject_rate_max = 0.4\n")
    monkeypatch.setenv("RLTRADER_RISK__SPREAD_MAX", "0.2")
    settings = load(path, {"desk.strategy": "regime_switcher"})
    assert settings.origin("risk.gap_min") == str(path)
    assert settings.origin("risk.reject_rate_max") == f"{path}, [regime_switcher.risk]"
    assert settings.origin("risk.spread_max") == "environment RLTRADER_RISK__SPREAD_MAX"
    assert settings.origin("desk.strategy") == "the command line"
    assert settings.origin("risk.drawdown_max") == "default of regime_switcher"
    assert settings.origin("risk.stale_bar_s") == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[regime_switcher.risk]\ndaily_loss = 0.1\n", "did you mean regime_switcher.risk.daily_loss_max?"),
        ("[regime_switcher.desk]\nname = 'x'\n", "regime_switcher.desk.name"),
        ("[regime_switcher]\nrisk = 3\n", "write [regime_switcher.risk]"),
        ("[regime_swicher.risk]\ndaily_loss_max = 0.1\n", "did you mean regime_switcher?"),
    ],
)
def test_a_strategys_table_is_checked_also_where_another_strategy_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(write(tmp_path, text), {})


def test_a_wrong_value_in_a_strategys_table_is_named_with_its_table(tmp_path: Path) -> None:
    path = write(tmp_path, "[regime_switcher.risk]\ndaily_loss_max = 7\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"desk.strategy": "regime_switcher"})
    assert "risk.daily_loss_max is 7" in str(caught.value)
    assert "[regime_switcher.risk]" in str(caught.value)
    assert "default: 0.2)" in str(caught.value)


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


@pytest.mark.parametrize(("rate", "waits_ms"), [(1.0, 400), (60.0, 24_000), (0.5, 400)])
def test_a_served_answer_has_its_real_milliseconds_however_fast_the_clock_runs(
    tmp_path: Path, rate: float, waits_ms: int
) -> None:
    text = """
    desk.strategy = "online_dqn"
    policy = { answers = "served", served_deadline_ms = 400, redis = "unix:///run/redis.sock" }
    """
    settings = load(write(tmp_path, text), {})
    served = settings.model_copy(update={"clock": ClockTable(rate=rate)}).trading().served
    assert isinstance(served, Served)
    assert served.deadline_ms == waits_ms


def test_trading_is_its_tables_and_survives_the_journal() -> None:
    trading = load(None, {"sizing.max_contracts": 3}).trading()
    assert trading.sizing.max_contracts == 3
    assert dataclasses.replace(trading, sizing=Trading().sizing) == Trading()
    assert msgspec.json.decode(msgspec.json.encode(trading), type=Trading) == trading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[risk]\nconfidence_min = 2\n", "risk.confidence_min is 2 (from {file}): expected at most 1: "),
        ("[risk]\nconfidence_min = 2\n", "change it there (default: 0.5)"),
        ("[risk]\nstale_bar_s = 0\n", "risk.stale_bar_s is 0 (from {file}): expected more than 0"),
        ('[risk]\nstale_bar_s = "soon"\n', 'risk.stale_bar_s is "soon" (from {file}): expected a whole number'),
        ("[risk]\nstale_bar_s = 1.5\n", "risk.stale_bar_s is 1.5 (from {file}): expected a whole number"),
        ("[risk]\nstale_bar_s = true\n", "risk.stale_bar_s is true (from {file}): expected a value like 90"),
        ("[risk]\nspread_max = nan\n", "risk.spread_max is nan (from {file}): expected"),
        ("[sizing]\ntake_profit = inf\n", "sizing.take_profit is inf (from {file}): expected a finite number"),
        (
            "[paper]\nocc_usd = 10000000000000000\n",
            "paper.occ_usd is 10000000000000000 (from {file}): expected a finite number, at",
        ),
        (
            "[feed]\nsilence_s = 10000000000000000\n",
            "feed.silence_s is 10000000000000000 (from {file}): expected a finite number",
        ),
        ("[policy]\nthreads = 100000\n", "policy.threads is 100000 (from {file}): expected at most 256"),
        ('[paths]\nstate_dir = ""\n', 'paths.state_dir is "" (from {file}): expected the path of a folder: change it'),
        ("[paths]\nmodels_dir = 3\n", "paths.models_dir is 3 (from {file}): expected the path of a folder: change it"),
        (
            '[paths]\nstate_dir = "~/desk"\n',
            "paths.state_dir is ~/desk (from {file}): expected a whole path: nothing puts",
        ),
        ('[paths]\ncalibration = "a\\u0000b"\n', "expected text without the character NUL: change it there"),
        (
            '[log]\nlevel = "loud"\n',
            "log.level is \"loud\" (from {file}): expected 'debug', 'info', 'warning' or 'error'",
        ),
        ('[desk]\nname = "My Desk"\n', 'desk.name is "My Desk" (from {file}): expected 1 to 40 small letters, digits'),
        (
            '[desk]\nsymbols = ["SPY"]\n',
            'desk.symbols is ["SPY"] (from {file}): expected []: option_scalper trades its own symbols and no others: ',
        ),
        (
            '[desk]\nsymbols = ["spy"]\n',
            'desk.symbols is "spy" (from {file}): expected a symbol in capital letters, such as',
        ),
        ('[desk]\nstrategy = "scalper"\n', 'desk.strategy is "scalper" (from {file}): expected one of option_scalper'),
        (
            "[risk]\nno_trade_windows = 5\n",
            "risk.no_trade_windows is 5 (from {file}): expected a list in square brackets",
        ),
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
        (
            "[risk]\norder_contracts_max = 2\n",
            "sizing.max_contracts is 10 (from default): expected at most risk.order_contracts_max (2), which denies",
        ),
        (
            "[sizing]\nmax_contracts = 6\n[risk]\nposition_contracts_max = 5\n",
            "sizing.max_contracts is 6 (from {file}): expected at most risk.position_contracts_max (5), which denies",
        ),
        (
            "[execution]\nflat_before_close_min = 0\nflatten_lead_min = 0\n",
            "execution.flat_before_close_min is 0 (from {file}): expected 1 or more, or a flatten_lead_min of 1",
        ),
        (
            "[alpaca]\nreport_every_s = 151\n",
            "alpaca.report_every_s is 151 (from {file}): expected at most 150: a desk that holds something counts as",
        ),
        (
            "[alpaca]\nreport_every_s = 61\n[broker]\nblind_min = 1\n",
            "alpaca.report_every_s is 61 (from {file}): expected at most 60: a desk that holds something counts as",
        ),
        (
            "[protection]\nrest_at_broker = true\n",
            'protection.options is "off" (from default): expected "stop_limit" or "stop", where you accept that nobody',
        ),
        (
            '[desk]\nstrategy = "regime_switcher"\n[basket]\norder_step = 0.0003\n',
            "basket.order_step is 0.0003 (from {file}): expected a part of 1 without a rest, such as",
        ),
        (
            '[basket]\nfractions = "on"\n',
            'basket.fractions is "on" (from {file}): expected "auto": option_scalper trades whole contracts',
        ),
        (
            "[basket]\nvolatility_target = 0.1\n",
            "basket.volatility_target is 0.1 (from {file}): expected 0: option_scalper decides at each bar",
        ),
        (
            '[desk]\nstrategy = "online_dqn"\n[basket]\nvolatility_target = 0.1\n',
            "basket.volatility_target is 0.1 (from {file}): expected 0: online_dqn decides at each bar",
        ),
        (
            '[desk]\nstrategy = "regime_switcher"\n[basket]\nvolatility_target = 0.1\nvolatility_forecast = "model"\n',
            'basket.volatility_forecast is "model" (from {file}): expected "ewma" or "har": the policies of',
        ),
        (
            '[desk]\nstrategy = "regime_switcher"\n[basket]\nvolatility_target = 0.1\nvolatility_span = 84\n',
            "basket.volatility_span is 84 (from {file}): expected at most 83: regime_switcher keeps 252 bars",
        ),
        (
            '[desk]\nstrategy = "daily_rebalancer"\n[protection]\nrest_at_broker = true\n',
            "protection.disaster_stop is 0.0 (from default): expected more than 0, such as 0.2: daily_rebalancer",
        ),
        (
            '[desk]\nstrategy = "online_dqn"\n[protection]\nrest_at_broker = true\ndisaster_stop = 0.2\n',
            "protection.disaster_stop is 0.2 (from {file}): expected 0: online_dqn has a stop of its own, which",
        ),
        (
            '[protection]\nrest_at_broker = "of course"\n',
            "protection.rest_at_broker is \"of course\" (from {file}): expected true, false or 'auto': change it there",
        ),
        (
            '[desk]\nstrategy = "online_dqn"\n[protection]\ndisaster_stop = 0.2\n',
            "protection.disaster_stop is 0.2 (from {file}): expected 0: online_dqn has a stop of its own, which",
        ),
        (
            '[protection]\nrest_at_broker = true\noptions = "stop"\ndistance = 3.4\n',
            "protection.distance is 3.4 (from {file}): expected less than 3.33: times sizing.stop_loss (0.3) it must",
        ),
        (
            "[execution]\nexpiry_day_flat_min = 0\nflatten_lead_min = 0\n",
            "execution.expiry_day_flat_min is 0 (from {file}): expected 1 or more, or a flatten_lead_min of 1",
        ),
        ("[risk]\nno_entry_before_close_min = 7\n", "is 7 (from {file}): expected more than execution.flat_before"),
        (
            '[basket]\ndecide = "before_close"\nend_before_close_min = 10\n',
            "basket.end_before_close_min is 10 (from {file}): expected less than basket.before_close_min (10)",
        ),
        ("[execution]\nentry_reprice_s = 181\n", "expected at most execution.entry_deadline_s (180)"),
        (
            "[risk]\nconfidnce_min = 0.5\n",
            "risk.confidnce_min (from {file}) is unknown: did you mean risk.confidence_min?",
        ),
        ("[rsik]\ngap_min = 3\n", "rsik (from {file}) is unknown: did you mean risk?"),
        ("gap_min = 3\n", "gap_min (from {file}) is unknown: did you mean"),
        ('strategy = "x.py"\n', "strategy (from {file}) is unknown: did you mean desk.strategy?"),
        (
            "[daily_rebalancer.parameters]\nfast = 20\non = true\n",
            'daily_rebalancer.parameters (from {file}) is unknown: write parameters = ["fast=20", "on=true"] in [desk]',
        ),
        ("[risk.more]\ngap = 3\n", "risk.more (from {file}) is unknown: did you mean"),
        ("risk = 3\n", "risk is 3 (from {file}): expected a table: write [risk]"),
        (
            "[desk]\nstrategy = online_dqn\n",
            "{file}: is not valid TOML: Invalid value (at line 2, column 12): correct that line (text stands in ",
        ),
        ("[risk]\ngap_min = \n", "{file}: is not valid TOML: Invalid value (at line 2, column 11)"),
        ("[risk]\n[risk]\n", "{file}: is not valid TOML: Cannot declare ('risk',) twice (at line 2, column 6)"),
    ],
)
def test_a_bad_file_is_refused_with_key_value_source_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message.format(file=path))):
        load(path, {})


def test_a_name_in_place_of_a_file_that_lies_here_is_told_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    for name, hint in (("mine", r"file\.py \(mine\.py is here\)"), ("tape.csv.gz", r"file\.py: change it there")):
        with pytest.raises(ConfigError, match=hint):
            load(write(tmp_path, f'[desk]\nstrategy = "{name}"\n'), {})


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
        ("RLTRADR_RISK__CONFIDENCE_MIN", "0.5", "is unknown: did you mean RLTRADER_RISK__CONFIDENCE_MIN?"),
        ("RL_TRADER_DESK__ACCOUNT", "live", "is unknown: did you mean RLTRADER_DESK__ACCOUNT?"),
        ("rltrader_risk__gap_min", "3", "rltrader_risk__gap_min (from the environment) is unknown: did you mean"),
        ("TRADER_RISK__DAILY_LOSS_MAX", "0.1", "is unknown: did you mean RLTRADER_RISK__DAILY_LOSS_MAX?"),
        ("RLTRADER_BASKET__VOLATILITY_TARGET", "1.5", "expected at most 1.0: a part of the portfolio's value a year"),
        ("RLTRADER_BASKET__VOLATILITY_TARGET", "10", "expected at most 1.0: a part of the portfolio's value a year"),
        ("RLTRADER_BASKET__GROSS_WEIGHT_MAX", "105", "expected at most 10: a part of the equity, 1.05 is 105 %"),
        ("RLTRADER_BASKET__TURNOVER_MAX", "11", "basket.turnover_max is 11.0 (from environment"),
        ("RLTRADER_MQTT__PREFIX", "a b", "expected 1 to 5 words with '/' between them"),
        ("RLTRADER_MQTT__USERNAME", "a b", "expected at most 100 letters, digits and signs of ASCII, without a space"),
        ("RLTRADER_GUARD__PREFIX", "A", "expected 1 to 20 small letters and digits, a letter first; empty: no guard"),
        ("RLTRADER_POLICY__PUBLIC_KEY", "abc", "expected public keys as `rltraderctl models keygen` prints them"),
        ("RLTRADER_RISK", "{}", "RLTRADER_RISK (from the environment) is unknown"),
        (
            "RLTRADER_RISK__GAP_MIN",
            "x",
            'risk.gap_min is "x" (from environment RLTRADER_RISK__GAP_MIN): expected a whole number',
        ),
        (
            "RLTRADER_PATHS__STATE_DIR",
            "",
            'paths.state_dir is "" (from environment RLTRADER_PATHS__STATE_DIR): expected',
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


def test_a_variable_of_another_program_is_let_pass() -> None:
    for name in ("TRADER_HOME", "RLLIB_TEST__GAP_MIN", "DJANGO_LOG__LEVEL", "RLTRADR", "__CF_USER_TEXT_ENCODING"):
        assert load(None, {}, {name: "1"}) == DeskSettings()


def test_a_misspelt_variable_of_a_table_that_does_not_count_is_let_pass() -> None:
    assert load(None, {}, {"RLTRADR_RISK__GAP_MIN": "1"}, only=("paths",)).paths == DeskSettings().paths


@pytest.mark.parametrize("name", ["RLTRADER_ALARM__COMMAND", "RLTRADER_ALRMS__COMMAND", "RLTRADERD_ALARMS__COMMAND"])
def test_a_misspelt_table_of_a_variable_counts_as_the_one_that_it_all_but_is(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} .* is unknown: did you mean RLTRADER_ALARMS__COMMAND"):
        load(None, {}, {name: "tell"}, only=("guard", "alarms"))
    assert load(None, {}, {name: "tell", "RLTRADER_MINE__FAST": "1"}, only=("paths",)).paths == DeskSettings().paths


@pytest.mark.parametrize(
    ("table", "meant"), [("alpac", "alpaca"), ("dsk", "desk"), ("alarm", "alarms"), ("gard", "guard")]
)
def test_a_misspelt_table_counts_as_the_one_that_it_all_but_is(tmp_path: Path, table: str, meant: str) -> None:
    path = write(tmp_path, f"[{table}]\nname = 1\n")
    with pytest.raises(ConfigError, match=rf"{table} \(from .*\) is unknown: did you mean {meant}"):
        load(path, NO_STRATEGY, only=("desk", "alpaca", "clock", "alarms", "guard"))
    assert load(path, NO_STRATEGY, only=("risk", "paths")) == DeskSettings()


def test_the_table_of_a_strategy_that_is_not_imported_is_none_that_it_resembles(tmp_path: Path) -> None:
    path = write(tmp_path, "[clocks.risk]\ndaily_loss_max = 0.1\n")
    assert load(path, NO_STRATEGY, only=("desk", "clock")) == DeskSettings()


def test_the_variable_of_the_tests_own_data_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLTRADER_DATA", "/somewhere")
    assert load(None, {}) == DeskSettings()


def test_a_key_of_the_rule_of_day_trades_is_passed_over_where_it_limits_nothing_and_refused_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(write(tmp_path, "[risk]\nday_trades_max = 0\n"), {}) == DeskSettings()
    path = write(tmp_path, "[risk]\nday_trades_max = 3\n")
    with pytest.raises(
        ConfigError, match=r"risk\.day_trades_max is 3 \(from .*\): the rule of day trades ended"
    ) as caught:
        load(path, {})
    assert "risk.intraday_exposure_max" in str(caught.value)
    monkeypatch.setenv("RLTRADER_RISK__DAY_TRADES_MAX", "2")
    with pytest.raises(ConfigError, match=r"from environment RLTRADER_RISK__DAY_TRADES_MAX"):
        load(None, {})
    monkeypatch.setenv("RLTRADER_RISK__DAY_TRADES_MAX", "0")
    assert load(None, {}) == DeskSettings()


def test_an_unknown_key_of_the_command_line_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"paths\.state \(from the command line\) is unknown: did you mean paths\.state_dir"
    ):
        load(None, {"paths.state": "x"})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file: check the path given with --config"):
        load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    "text",
    [
        'APCA_API_KEY_ID = "PKHIDDEN"\n',
        '[broker]\napi_key = "PKHIDDEN"\n',
        '[feed]\nsecret = "PKHIDDEN"\n',
        '[alpaca]\nkey_id = "PKHIDDEN"\n',
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
    keys = Credentials()
    assert keys.api_key_id is not None
    assert keys.api_key_id.get_secret_value() == "PKHIDDEN"
    for text in (repr(keys), str(keys), keys.model_dump_json(), repr(keys.model_dump())):
        assert "HIDDEN" not in text
        assert "hidden" not in text


@given(st.floats() | st.integers(-3, 3))
def test_a_fraction_is_within_its_bounds_or_refused_by_name(value: float) -> None:
    if 0 <= value <= 1:
        assert load(None, {"risk.confidence_min": value}).risk.confidence_min == value
    else:
        with pytest.raises(ConfigError, match=r"risk\.confidence_min"):
            load(None, {"risk.confidence_min": value})


# --- the tables of a live desk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("desk.account_number", ("", "PA3ABC", "PA3-scalper_2", "9" * 80), ("PA 3", "x" * 81, "PA/3", "PA3\n")),
        ("feed.warm_up_min", (1, 600), (0, -1, 1.5)),
        ("feed.silence_s", (1,), (0,)),
        ("feed.repair_s", (1,), (0,)),
        ("feed.options", ("opra", "indicative"), ("OPRA", "")),
        ("alpaca.order_timeout_s", (0.1, 3600), (0, -1, 3600.1, "soon")),
        ("alpaca.read_timeout_s", (0.1, 3600), (0, 3601)),
        ("alpaca.handshake_timeout_s", (0.1, 3600), (0, 3601)),
        ("alpaca.ping_s", (0.1, 3600), (0, 3601)),
        ("alpaca.backoff_max_s", (0.1, 3600), (0, 3601)),
        ("alpaca.clock_skew_max_s", (0.1, 3600), (0, 3601)),
        ("alpaca.report_every_s", (1, 150), (0, 1.5)),
        ("service.stop_deadline_s", (0.1, 3600), (0, 3601)),
        ("service.end_of_day_min", (1,), (0,)),
        ("service.archives", (0, 1, 365), (-1, 1.5)),
        ("broker.foreign_orders", ("halt", "ignore", "adopt"), ("", "ADOPT", "flatten")),
        ("broker.exercised_shares", ("close", "hold"), ("", "sell")),
        ("broker.cash_tolerance_usd", (Decimal(0), Decimal("0.01")), ("-0.01", "much", "NaN")),
        ("broker.on_blind", ("flatten", "hold", "alarm"), ("", "halt")),
        ("broker.blind_min", (1,), (0,)),
        ("broker.look_up_s", (1,), (0,)),
        ("protection.distance", (1.0, 1.5), (0.99, 21)),
        ("protection.options", ("off", "stop", "stop_limit"), ("on",)),
        ("protection.floor", (0.5,), (0, 1)),
        ("broker.on_stop", ("keep", "flatten"), ("", "sell")),
    ],
)
def test_a_value_of_a_live_desk_is_within_its_bounds_or_refused_by_name(
    key: str, good: tuple[object, ...], bad: tuple[object, ...]
) -> None:
    section, _, name = key.partition(".")
    for value in good:
        assert getattr(getattr(load(None, {key: value}), section), name) == value
    for value in bad:
        with pytest.raises(ConfigError, match=re.escape(f"{key} is ")):
            load(None, {key: value})


LOOPBACK = {
    "alpaca.trading_url": "http://127.0.0.1:8000",
    "alpaca.data_url": "http://[::1]:8000",
    "alpaca.stream_url": "ws://localhost:8000/v2/{feed}",
    "alpaca.trade_stream_url": "ws://127.0.0.1:8000/stream",
    "alpaca.option_stream_url": "ws://127.0.0.1:8000/v1beta1/{options}",
}
CLOCK: dict[str, object] = {
    "clock.rate": 60,
    "clock.sim_start": "2024-07-01T09:00:00-04:00",
    "clock.anchor_unix_s": 1_700_000_000.5,
}
LIVE: dict[str, object] = {
    "desk.account": "live",
    "desk.account_number": "123456789",
    "alpaca.trading_url": "https://api.alpaca.markets",
    "alpaca.trade_stream_url": "wss://api.alpaca.markets/stream",
}


def refusal(**overrides: object) -> str:
    """Why these keys (section__key) are refused."""
    with pytest.raises(ConfigError) as caught:
        load(None, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


def test_an_address_has_the_feeds_in_it_and_no_slash_at_its_end() -> None:
    settings = load(
        None, {"feed.name": "iex", "feed.options": "opra", "alpaca.data_url": "https://data.alpaca.markets/"}
    )
    assert settings.address("stream_url") == "wss://stream.data.alpaca.markets/v2/iex"
    assert settings.address("option_stream_url") == "wss://stream.data.alpaca.markets/v1beta1/opra"
    assert settings.address("data_url") == "https://data.alpaca.markets"


@pytest.mark.parametrize("tail", ["/v2", "/v2/", "/", ""])
def test_a_service_s_address_may_have_the_version_that_alpaca_s_pages_show(tail: str) -> None:
    services = {"trading_url": "https://paper-api.alpaca.markets", "data_url": "https://data.alpaca.markets"}
    settings = load(None, {f"alpaca.{name}": address + tail for name, address in services.items()})
    assert {name: settings.address(name) for name in services} == services


@pytest.mark.parametrize("tail", ["/v2/account", "/v1beta1", "/v2/v1"])
def test_a_service_s_address_with_another_path_is_refused(tail: str) -> None:
    message = refusal(alpaca__data_url=f"https://data.alpaca.markets{tail}")
    assert (
        f'"https://data.alpaca.markets{tail}" (from the command line): expected no path behind data.alpaca' in message
    )


@pytest.mark.parametrize(
    "address",
    [
        "https://ann:PLANTED@data.alpaca.markets",
        "https://PLANTED@data.alpaca.markets",
        "https://ann:PLAN@PLANTED@data.alpaca.markets",
        "https://ann:PLA/PLANTED@data.alpaca.markets",
        "https://ann:PLA#PLANTED@data.alpaca.markets",
        "https//ann:PLANTED@data.alpaca.markets",
        "https://data.alpaca.markets?key=PLANTED",
        "https://data.alpaca.markets/#PLANTED",
        ["https://ann:PLANTED@data.alpaca.markets"],
    ],
)
def test_a_user_password_or_query_in_an_address_is_refused_and_not_repeated(address: object) -> None:
    message = refusal(alpaca__data_url=address)
    assert message.startswith("alpaca.data_url is ")
    assert "PLA" not in message


@pytest.mark.parametrize(
    "address",
    [
        "",
        "data.alpaca.markets",
        "ftp://data.alpaca.markets",
        "https:",
        "https://[::1",
        "https://data:99999",
        "wss://x",
    ],
)
def test_an_address_that_is_none_is_refused_with_an_example(address: str) -> None:
    message = refusal(alpaca__data_url=address)
    assert (
        f'alpaca.data_url is "{address}" (from the command line): expected an address such as https://data' in message
    )


@pytest.mark.parametrize("name", ["trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url"])
def test_keys_go_over_the_network_encrypted_or_not_at_all(name: str) -> None:
    secure, plain = ("https", "http") if name in ("trading_url", "data_url") else ("wss", "ws")
    for host in ("data.alpaca.markets", "192.168.1.5:8000", "localhost.example"):
        message = refusal(**{f"alpaca__{name}": f"{plain}://{host}"})
        assert f"expected {secure}:// (keys never travel in the clear, except to this machine)" in message
    load(None, {f"alpaca.{name}": LOOPBACK[f"alpaca.{name}"]})  # is not refused


@pytest.mark.parametrize("host", ["api.alpaca.markets", "API.alpaca.markets.", "api.alpaca.markets:443"])
def test_a_paper_desk_is_refused_at_the_live_host(host: str) -> None:
    message = refusal(alpaca__trading_url=f"https://{host}", alpaca__trade_stream_url=f"wss://{host}/stream")
    expected = 'expected paper-api.alpaca.markets, because desk.account is "paper"'
    assert [line.split()[0] for line in message.splitlines()] == ["alpaca.trading_url", "alpaca.trade_stream_url"]
    assert all(expected in line for line in message.splitlines())


def test_a_live_desk_is_refused_at_the_paper_host_and_without_its_number() -> None:
    message = refusal(desk__account="live")
    assert [line.split()[0] for line in message.splitlines()] == [
        "alpaca.trading_url",
        "alpaca.trade_stream_url",
        "desk.account_number",
    ]
    assert message.count('expected api.alpaca.markets, because desk.account is "live"') == 2
    assert "expected the number of the live account: it is checked against what the broker says" in message
    assert load(None, LIVE).desk.account_number == "123456789"


def test_with_real_money_a_desk_explores_in_few_decisions_alone() -> None:
    explores = {**LIVE, "desk.strategy": "online_dqn", "exploration.kind": "epsilon"}
    assert load(None, {**explores, "exploration.epsilon": 0.05}).exploration.epsilon == 0.05
    with pytest.raises(ConfigError, match=r"exploration\.epsilon is 0\.06 .* at most 0\.05 where desk\.account"):
        load(None, {**explores, "exploration.epsilon": 0.06})
    paper = {"desk.strategy": "online_dqn", "exploration.kind": "epsilon", "exploration.epsilon": 0.06}
    assert load(None, paper).exploration.epsilon == 0.06


@pytest.mark.parametrize("name", sorted(LOOPBACK))
def test_simulated_time_is_refused_while_one_address_is_of_another_machine(name: str) -> None:
    elsewhere = {**LOOPBACK, **CLOCK, name: defaults()["alpaca"][name.removeprefix("alpaca.")]}
    with pytest.raises(
        ConfigError, match=r"clock\.sim_start is .* simulated time is only for a server on this machine"
    ) as caught:
        load(None, elsewhere)
    assert len(str(caught.value).splitlines()) == 1


def test_simulated_time_needs_its_rate_its_start_and_its_anchor() -> None:
    settings = load(None, {**LOOPBACK, **CLOCK})
    assert sim_start_ns(settings.clock) == 1_719_838_800_000_000_000  # 13:00 UTC on the first of July 2024
    for key, value, expected in (
        ("clock.sim_start", "", "ISO 8601 with a zone, such as 2024-07-01T09:00:00-04:00, or seconds since 1970"),
        ("clock.sim_start", "2024-07-01T09:00:00", "ISO 8601 with a zone"),
        ("clock.sim_start", "nine", "ISO 8601 with a zone"),
        ("clock.anchor_unix_s", 0, "the real moment at which the clock shows sim_start"),
        ("clock.anchor_unix_s", -1, "at least 0"),
        ("clock.rate", 0, "more than 0"),
        ("clock.rate", -1, "more than 0"),
        ("clock.rate", 100_001, "at most 100000"),
    ):
        with pytest.raises(ConfigError, match=rf"^{re.escape(key)} is .*expected {re.escape(expected)}"):
            load(None, {**LOOPBACK, **CLOCK, key: value})


def test_virtual_time_is_for_a_server_on_this_machine_and_leaves_no_other_key_to_the_clock() -> None:
    assert load(None, {**LOOPBACK, "clock.socket": "/tmp/clock"}).clock.socket == "/tmp/clock"
    with pytest.raises(ConfigError, match=r"^clock\.rate is 60.*its default where clock\.socket gives the time"):
        load(None, {**LOOPBACK, "clock.socket": "/tmp/clock", "clock.rate": 60})
    with pytest.raises(ConfigError, match=r"^clock\.socket is .*only for a server on this machine"):
        load(None, {"clock.socket": "/tmp/clock"})


@pytest.mark.parametrize("text", ["1719838800", "2024-07-01 13:00:00Z", "2024-07-01T09:00:00-04:00", '"1719838800.0"'])
def test_a_start_may_be_a_time_of_toml_text_or_seconds(text: str, tmp_path: Path) -> None:
    addresses = "\n".join(f'{key.partition(".")[2]} = "{value}"' for key, value in LOOPBACK.items())
    path = write(
        tmp_path, f"[alpaca]\n{addresses}\n[clock]\nanchor_unix_s = 1.5\nsim_start = {text.replace(' ', 'T')}\n"
    )
    clock = load(path, {}).clock
    assert (sim_start_ns(clock), clock.rate) == (1_719_838_800_000_000_000, 1.0)


@given(st.datetimes(timezones=st.timezones()))
def test_a_start_of_simulated_time_is_read_to_the_microsecond(moment: datetime) -> None:
    clock = dataclasses.replace(DeskSettings().clock, sim_start=moment.isoformat())
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert sim_start_ns(clock) == micros * 1000


# --- keys ---------------------------------------------------------------------------------------------------------

KEY, SECRET = "PKPLANTED0KEY0ID", "planted-secret-0123456789"


def test_a_key_that_stands_in_the_wrong_place_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", KEY)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    monkeypatch.setenv("RLTRADER_DESK__STRATEGY", SECRET)
    monkeypatch.setenv("RLTRADER_APCA_API_KEY_ID", KEY)
    path = write(tmp_path, f'[desk]\nname = "{KEY}"\naccount_number = "{SECRET}"\nfeed = 1\n[apca]\nkey = "{KEY}"\n')
    message = ""
    for config in (path, None):
        with pytest.raises(ConfigError) as caught:
            load(config, {"policy.threads": SECRET, "paths.nowhere": KEY})
        message += str(caught.value)
    monkeypatch.delenv("RLTRADER_APCA_API_KEY_ID")
    for text in (f'[desk]\nname = "{KEY}"\n', f'alpaca = "{KEY}"\n', f'[log]\nlevel = "{SECRET}"\n'):
        with pytest.raises(ConfigError) as caught:
            load(write(tmp_path, text), {})
        message += str(caught.value)
    assert "[hidden]" in message
    assert KEY not in message
    assert SECRET not in message


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: bytes) -> Path:
    """systemd's folder of credentials with these files."""
    directory = folder / "credentials"
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


READS_A_SECRET = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
{}
print(resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.mark.parametrize(
    "read",
    [
        "from daemon.config.load import credentials; credentials()",
        "from daemon.experience.link import password; password()",
        "from daemon.notify.command import addresses; from pathlib import Path; addresses(Path('urls'))",
    ],
)
def test_a_process_that_read_a_secret_leaves_no_core_dump(tmp_path: Path, read: str) -> None:
    (tmp_path / "urls").write_text("tgram://token/1\n")
    environment = {**os.environ, "APCA_API_KEY_ID": KEY, "APCA_API_SECRET_KEY": SECRET}
    program = [sys.executable, "-c", READS_A_SECRET.format(read)]
    run = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "(0, 0)\n"


def test_the_credentials_of_systemd_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", "of-the-environment")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "of-the-environment-too")
    assert (credentials().key, credentials().secret) == ("of-the-environment", "of-the-environment-too")
    directory = planted(tmp_path, monkeypatch, APCA_API_KEY_ID=f"{KEY}\n".encode(), APCA_API_SECRET_KEY=SECRET.encode())
    assert (credentials().key, credentials().secret) == (KEY, SECRET)
    assert SECRET not in repr(credentials())
    (directory / "APCA_API_SECRET_KEY").unlink()
    assert (credentials().key, credentials().secret) == (KEY, "of-the-environment-too")


def test_keys_are_complete_only_when_both_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not credentials().complete
    directory = planted(tmp_path, monkeypatch, APCA_API_KEY_ID=KEY.encode())
    assert not credentials().complete
    (directory / "APCA_API_SECRET_KEY").write_text(" \n")
    assert not credentials().complete
    (directory / "APCA_API_SECRET_KEY").write_text(SECRET)
    assert credentials().complete


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{SECRET}é".encode(), "the credential cannot be read (it is no ASCII text): write the key alone, as text"),
        (b"\x80" + SECRET.encode(), "the credential cannot be read (it is no ASCII text)"),
        (f"{KEY}\n{SECRET}".encode(), "this is no key: expected letters and digits alone: copy the key again"),
        (f"{KEY}\x00".encode(), "this is no key"),
    ],
)
def test_a_credential_that_is_no_key_is_refused_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    directory = planted(tmp_path, monkeypatch, APCA_API_KEY_ID=KEY.encode(), APCA_API_SECRET_KEY=content)
    with pytest.raises(ConfigError) as caught:
        credentials()
    assert str(caught.value).startswith(f"{directory / 'APCA_API_SECRET_KEY'}: {message}")
    assert SECRET not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_a_credential_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = planted(tmp_path, monkeypatch)
    (directory / "APCA_API_KEY_ID").mkdir()
    with pytest.raises(ConfigError, match=r"APCA_API_KEY_ID: the credential cannot be read \(Is a directory\)"):
        credentials()


@pytest.mark.parametrize("text", [f"{KEY} {SECRET}", f"{KEY}\r\n{SECRET}", f"“{SECRET}”"])
def test_a_key_of_the_environment_that_is_none_is_refused_without_its_content(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("APCA_API_SECRET_KEY", text)
    with pytest.raises(ConfigError, match=r"^environment APCA_API_SECRET_KEY: this is no key") as caught:
        credentials()
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("APCA_API_SECRET_KEY", f"{SECRET}\r\n")  # the end of a line that a file left there
    assert credentials().secret == SECRET


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[mqtt]\nhost = "broker.example.net"\ntls = false\n', "mqtt.tls is false"),
        ('[mqtt]\nhost = "user@broker"\n', "mqtt.host is"),
        ("[mqtt]\ncommands = true\n", "mqtt.commands is true"),
        ('[alarms]\ncommand = ["notify"]\n', "alarms.command is"),
        ("[drift]\nleast = 3000\n", "drift.least is 3000"),
        ('[policy]\nversion = "v9"\n[drift]\nclaim_broken = "former_version"\n', 'policy.version is "v9"'),
        ('[policy]\npublic_key = "abc"\n', "policy.public_key is"),
        ("[metrics]\nport = 70000\n", "metrics.port is 70000"),
    ],
)
def test_an_operator_s_key_that_cannot_work_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load(write(tmp_path, text), {})


def test_a_broker_on_this_machine_may_be_spoken_to_without_tls(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "[mqtt]\nenabled = true\ntls = false\ncommands = true\n"), {})
    assert (settings.mqtt.host, settings.mqtt.tls, settings.mqtt.commands) == ("127.0.0.1", False, True)


def test_the_operator_s_secrets_come_from_credentials_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "of-the-environment")
    monkeypatch.delenv("MQTT_COMMAND_KEYS", raising=False)
    assert operator_secrets().mqtt_command_keys is None
    (tmp_path / "MQTT_PASSWORD").write_text("of-a-credential\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    secrets = operator_secrets()
    assert secrets.mqtt_password is not None
    assert secrets.mqtt_password.get_secret_value() == "of-a-credential"
    assert "of-a-credential" not in repr(secrets)


def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MQTT_PASSWORD") as caught:
        load(write(tmp_path, '[mqtt]\npassword = "planted-password"\n'), {})
    assert "planted-password" not in str(caught.value)


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        (("SPY", "TLT", "SPY"), "each symbol once"),
        (tuple("ABCDEFGHIJK"), "1 to 10 symbols"),
        (("SPY", "CASH"), "no CASH"),
    ],
)
def test_the_funds_of_the_regime_switcher_are_checked_by_the_key(
    tmp_path: Path, symbols: tuple[str, ...], expected: str
) -> None:
    listed = ", ".join(f'"{symbol}"' for symbol in symbols)
    with pytest.raises(ConfigError, match=rf"desk.symbols is .* expected {expected}"):
        load(write(tmp_path, f"[desk]\nsymbols = [{listed}]\n"), {"desk.strategy": "regime_switcher"})
    chosen = load(write(tmp_path, '[desk]\nsymbols = ["SPY", "TLT"]\n'), {"desk.strategy": "regime_switcher"})
    assert strategy_of(chosen).spec.actions[3] == "ALL_TLT"


def test_a_strategy_that_serves_any_symbols_takes_them_from_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(toy_crowd="tests.support.toy.crowd"):
        chosen = {"desk.strategy": "toy_crowd"}
        path = write(tmp_path, '[desk]\nsymbols = ["SPY", "BRK.B"]\n')
        assert load(path, chosen).desk.symbols == ("SPY", "BRK.B")
        with pytest.raises(ConfigError, match=r'desk.symbols is "QQQ" .* expected each symbol once'):
            load(write(tmp_path, '[desk]\nsymbols = ["QQQ", "SPY", "QQQ"]\n'), chosen)
        many = ", ".join(f'"S{n}"' for n in range(501))
        with pytest.raises(ConfigError, match=r"desk.symbols .* at most 500 items"):
            load(write(tmp_path, f"[desk]\nsymbols = [{many}]\n"), chosen)
        monkeypatch.setenv("RLTRADER_DESK__SYMBOLS", "SPY,QQQ")
        assert load(None, chosen).desk.symbols == ("SPY", "QQQ")


def test_a_strategy_of_so_many_stocks_takes_no_fewer(tmp_path: Path) -> None:
    chosen = {"desk.strategy": "daily_rebalancer"}
    five = write(tmp_path, '[desk]\nsymbols = ["SPY", "AAPL", "KO", "JPM", "XOM"]\n')
    assert load(five, chosen).desk.symbols == ("SPY", "AAPL", "KO", "JPM", "XOM")
    with pytest.raises(ConfigError, match=r"desk.symbols is .*: expected 5 to 100 stocks"):
        load(write(tmp_path, '[desk]\nsymbols = ["SPY", "AAPL", "KO", "JPM"]\n'), chosen)


@pytest.mark.parametrize(
    ("desk", "limits", "denied"),
    [
        # a session has 390 minutes, of which the last 30 take no entry: the last bar's end that may is that of 15:29
        ("option_scalper", {"risk.no_entry_after_open_min": 359}, False),
        ("option_scalper", {"risk.no_entry_after_open_min": 360}, True),
        ("online_dqn", {"risk.no_trade_windows": ("09:30-15:30",)}, True),
        ("option_scalper", {"risk.spread_max": 0}, True),
        # a basket's buys go from 9:30 on, until 5 minutes before the close; decided late, from 15:50 on
        ("daily_rebalancer", {"risk.no_trade_windows": ("09:30-15:54",)}, False),
        ("daily_rebalancer", {"risk.no_trade_windows": ("09:30-15:55",)}, True),
        ("daily_rebalancer", {"basket.end_before_close_min": 390}, True),
        ("regime_switcher", {"basket.decide": "before_close", "risk.no_trade_windows": ("15:50-15:55",)}, True),
        *((name, {}, False) for name in STRATEGIES),
    ],
)
def test_limits_with_which_a_desk_never_buys_are_named(desk: str, limits: dict[str, object], denied: bool) -> None:
    said = never_enters(load(None, {"desk.strategy": desk, **limits}))
    assert bool(said) == denied
    assert all(key in said for key in limits if denied and key != "basket.decide")
