"""A desk that holds something starts though its configuration has mistakes, halted: exits by rules go on.

Expected values: the exchange's hours of a half day, the server's own book, and the rules of the former start.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.app.live.settings_choice import NotWhole, settings_of_a_held_desk, tell_not_started
from daemon.cli import ctl
from daemon.config.load import ConfigError, DeskSettings, load
from daemon.operator.log import Log
from rltrader import module_command
from strategies.registry import add
from tests.support.desks import lively_policy
from tests.support.desks.live_desk import another_release, differences
from tests.support.desks.stage import KEYS, Stage, Table, Tape, new_york_ns, stage
from tests.support.own.files import TOY, forgotten_again
from tests.support.paths import REPOSITORY

DAY = "2024-11-29"  # closes at 13:00
RULES: Table = {"sizing": {"stop_loss": 0.98}, "risk": {"daily_loss_max": 0.5}, "mqtt": {"port": 8884}}
TYPO: Table = {"risk": {"daly_loss_max": 0.02}, "sizing": {"stop_loss": 0.4}}


@dataclass(frozen=True)
class Held:
    """A desk that was killed while it held something, and the text of its configuration."""

    stage: Stage
    text: str

    def settings(self, change: Callable[[str], str], **values: object) -> tuple[DeskSettings, str]:
        """What it would start with after this change of its file."""
        path = self.stage.folder / "changed.toml"
        path.write_text(change(self.text))
        values = {name.replace("__", "."): value for name, value in values.items()}
        with pytest.raises(ConfigError) as refused:
            load(path, values)
        return settings_of_a_held_desk(path, values, refused.value)


@pytest.fixture(scope="module")
def killed_desk(bundled: Tape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    models = lively_policy.store(tmp_path_factory.mktemp("models"))
    with stage(bundled, DAY, "11:30", tmp_path_factory.mktemp("desk") / "desk", models, RULES) as desk:
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
        daemon.kill()
        assert daemon.wait(10) == -signal.SIGKILL
        yield Held(desk, (desk.folder / "config.toml").read_text())


def typo(text: str) -> str:
    return text.replace("daily_loss_max = 0.5", "daly_loss_max = 0.02").replace("stop_loss = 0.98", "stop_loss = 0.4")


def unknown_table(text: str) -> str:
    return text.replace("[risk]", "[riks]").replace("stop_loss = 0.98", "stop_loss = 0.4")


def calibration_gone(text: str) -> str:
    config = text.replace("stop_loss = 0.98", "stop_loss = 0.4")
    return config.replace("[paths]", '[paths]\ncalibration = "gone.json"')


def contradiction(text: str) -> str:
    return text.replace("stop_loss = 0.98", "stop_loss = 0.98\nmin_contracts = 9\nmax_contracts = 8")


@pytest.mark.parametrize("mistake", [typo, unknown_table, calibration_gone, contradiction])
def test_rules_with_a_mistake_come_whole_from_the_last_start(killed_desk: Held, mistake: Callable[[str], str]) -> None:
    settings, message = killed_desk.settings(mistake)
    assert settings.trading() == load(killed_desk.stage.folder / "config.toml", {}).trading()
    assert (settings.sizing.stop_loss, settings.risk.daily_loss_max) == (0.98, 0.5)
    assert settings.origin("risk.daily_loss_max") == "the last start, in the journal"
    assert settings.mqtt.port == 8884
    assert message.endswith("; meanwhile: trading rules from the last start, in the journal, whole")


def test_another_table_with_a_mistake_has_its_defaults_and_the_rules_stay_the_file_s(killed_desk: Held) -> None:
    settings, message = killed_desk.settings(
        lambda text: text.replace("port = 8884", "prt = 8884").replace("stop_loss = 0.98", "stop_loss = 0.4")
    )
    assert (settings.sizing.stop_loss, settings.mqtt.port) == (0.4, 8883)
    assert "mqtt.prt (from" in message
    assert message.endswith("; meanwhile: trading rules from the configuration, whole; by their defaults: [mqtt]")


@pytest.mark.parametrize(("mistake", "blind_min"), [(typo, 5), (lambda text: text.replace("port =", "prt ="), 20)])
def test_reports_as_rare_as_the_file_s_own_blind_min_allows_keep_no_desk_from_starting(
    killed_desk: Held, mistake: Callable[[str], str], blind_min: int
) -> None:
    def rare(text: str) -> str:
        return text.replace("[alpaca]\n", "[alpaca]\nreport_every_s = 600\n") + "\n[broker]\nblind_min = 20\n"

    settings, _ = killed_desk.settings(lambda text: mistake(rare(text)))
    assert (settings.alpaca.report_every_s, settings.broker.blind_min) == (600, blind_min)


def test_without_its_keys_no_version_counts_but_the_one_that_answered_last(killed_desk: Held) -> None:
    settings, message = killed_desk.settings(lambda text: text + '\n[policy]\npublik_key = "A"\n')
    assert (settings.policy.version, settings.policy.poll_s) == ("none", 0)
    assert message.endswith("by their defaults: [policy]")


def test_the_feed_of_the_journal_takes_the_place_of_one_with_a_mistake(killed_desk: Held) -> None:
    settings, _ = killed_desk.settings(lambda text: text.replace('name = "sip"', 'name = "sib"'))
    assert settings.feed.name == "sip"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda text: text.replace("[desk]", "[desk]\nstrateggy = 1") if "[desk]" in text else "[desk]\nx = 1\n" + text,
        lambda text: text.replace("trading_url", "trading_ulr"),
        lambda text: text + "\n[risk\n",
        lambda text: text.replace("state_dir =", "models_dri = 1\nstate_dir ="),
        lambda text: 'desk.strategy = "option_scalpr"\n' + text,
        lambda text: 'desk.strategy = "not/there.py"\n' + text,
    ],
)
def test_without_its_identity_the_start_is_tried_again(killed_desk: Held, mistake: Callable[[str], str]) -> None:
    with pytest.raises(NotWhole, match="holds a position or an order, and"):
        killed_desk.settings(mistake)


def test_another_account_is_not_traded_with_the_rules_of_this_one(killed_desk: Held) -> None:
    with pytest.raises(NotWhole, match="account_number is PA0000, and"):
        killed_desk.settings(lambda text: 'desk.account_number = "PA0000"\n' + typo(text))


def test_the_account_that_the_journal_knows_is_the_expected_one(killed_desk: Held) -> None:
    settings, _ = killed_desk.settings(typo)
    assert settings.desk.account_number == killed_desk.stage.account.account_number


OTHER_ACCOUNT: Table = {"desk": {"account": "live", "account_number": "PA0000"}}


@pytest.mark.parametrize(
    ("table", "environment", "mention"),
    [
        ({"feed": {"name": "iex"}}, KEYS, "was made with feed sip"),
        ({"desk": {"strategy": "regime_switcher"}}, KEYS, "the versions of regime_switcher"),
        (OTHER_ACCOUNT, KEYS, "live"),
        ({}, {}, "no broker keys"),
        ({}, KEYS | {"APCA_API_KEY_ID": "a b"}, "this is no key"),
    ],
)
def test_whatever_refuses_its_start_is_tried_again_and_told(
    killed_desk: Held, tmp_path: Path, table: Table, environment: dict[str, str], mention: str
) -> None:
    alarm_file, program = tmp_path / "alarms", tmp_path / "program.py"
    program.write_text(f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())")
    alarms: Table = {"alarms": {"command": [sys.executable, str(program)], "timeout_s": 60}}
    assert killed_desk.stage.start(environment=environment, tables=(table, alarms)).wait(60) == 1
    killed_desk.stage.daemons.pop()
    (line,) = alarm_file.read_text().splitlines()
    assert (json.loads(line)["alarm"], json.loads(line)["desk"]) == ("configuration", str(killed_desk.stage.state_dir))
    assert mention in json.loads(line)["detail"]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda text: text.replace("state_dir =", "state_dri ="),
        lambda text: re.sub(r"\[paths\]\n((?:\w+ = .*\n)+)", dotted, text),
    ],
)
def test_a_state_directory_is_found_by_a_key_that_is_mistaken_or_dotted(
    killed_desk: Held, mistake: Callable[[str], str]
) -> None:
    with pytest.raises(NotWhole, match="holds a position or an order, and"):
        killed_desk.settings(mistake)


def dotted(table: re.Match[str]) -> str:
    """The keys of `[paths]` as dotted keys of the root, the first of them unknown."""
    return "".join(f"paths.{line}\n" for line in ("x = 1", *table[1].splitlines()))


def test_of_a_file_that_is_no_toml_the_alarm_s_table_counts(killed_desk: Held, tmp_path: Path) -> None:
    alarm_file, path = tmp_path / "alarms", tmp_path / "config.toml"
    program = [sys.executable, "-c", f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())"]
    path.write_text(f"[alarms]\ncommand = {json.dumps(program)}\n\n{killed_desk.text}\n[risk\n")
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    with pytest.raises(NotWhole) as again:
        settings_of_a_held_desk(path, {}, refused.value)
    tell_not_started(path, again.value, Log())
    assert json.loads(alarm_file.read_text())["alarm"] == "configuration"


def test_neither_a_folder_whose_name_is_no_text_nor_a_damaged_note_keeps_the_alarm_back(tmp_path: Path) -> None:
    alarm_file, path, place = tmp_path / "alarms", tmp_path / "config.toml", tmp_path / os.fsdecode(b"desk-\xff")
    program = [sys.executable, "-c", f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())"]
    path.write_text(f"[alarms]\ncommand = {json.dumps(program)}\n")
    place.mkdir()
    (place / "not_started").write_bytes(b"\xff damaged")
    for _ in range(2):  # the second time within the hour: one alarm
        tell_not_started(path, NotWhole(place, "it cannot start"), Log())
    (line,) = alarm_file.read_text().splitlines()
    assert json.loads(line)["desk"] == f"{tmp_path}/desk-\\udcff"


def test_a_desk_whose_journal_cannot_be_read_is_told_though_nobody_knows_what_it_holds(tmp_path: Path) -> None:
    """systemd does not start it again (exit code 2), so nobody would hear of what it may hold."""
    alarm_file, path, place = tmp_path / "alarms", tmp_path / "config.toml", tmp_path / "desk"
    program = [sys.executable, "-c", f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())"]
    path.write_text(
        f'[desk]\nstrategy = "option_scalper"\n[feed]\nname = "sip"\noptions = "opra"\n[paths]\nstate_dir = "{place}"\n'
        f'models_dir = "{REPOSITORY}/onnx_models"\n'
        f"[alarms]\ncommand = {json.dumps(program)}\n"
    )
    place.mkdir()
    command = module_command("daemon", "--config", path)
    for _ in range(2):  # the second time within the hour: one alarm
        (place / "journal.sqlite").write_bytes(b"no journal " * 1000)
        ended = subprocess.run(command, env={**os.environ, **KEYS}, capture_output=True, check=False, timeout=120)
        assert ended.returncode == 2, ended.stderr
    (line,) = map(json.loads, alarm_file.read_text().splitlines())
    assert line["alarm"] == "journal_damaged"
    assert f"{place} may hold a position or an order, and it cannot start: " in line["detail"]
    assert "A journal that cannot be read" in line["detail"]


def test_a_desk_that_holds_nothing_is_refused_with_the_mistake(killed_desk: Held, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="daly_loss_max"):
        killed_desk.settings(typo, paths__state_dir=tmp_path / "fresh")


def test_it_goes_on_with_its_exits_and_the_operator_is_told_where_it_cannot(killed_desk: Held, tmp_path: Path) -> None:
    """The last of the module: the desk goes on and leaves."""
    desk, alarm_file = killed_desk.stage, tmp_path / "alarms"
    program = tmp_path / "program.py"
    program.write_text(f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())")
    alarms: Table = {"alarms": {"command": [sys.executable, str(program)], "timeout_s": 60}}
    for _ in range(2):  # the second time within the hour: one alarm
        assert desk.start(tables=({"desk": {"nmae": "x"}}, alarms)).wait(60) == 1
        desk.daemons.pop()
    (line,) = alarm_file.read_text().splitlines()
    assert json.loads(line)["alarm"] == "configuration"
    assert "desk.nmae" in json.loads(line)["detail"]
    for name in ("ballast", "hung"):  # what is no plain file there keeps no desk that holds something back
        (desk.state_dir / name).unlink()
        (desk.state_dir / name).mkdir()
    desk.start(tables=(TYPO,))
    desk.until_true(lambda: "configuration" in [row["reason"] for row in desk.read_log("halted")], "the halt")
    starts = desk.journaled("RunStarted")
    assert starts[-1]["trading"] == starts[0]["trading"]
    assert starts[-1]["origins"]["the last start, in the journal"]
    assert "not a plain file" in str(desk.read_log("no_ballast"))
    assert "it is no plain file: move it away" in str(desk.read_log("hang_unrecorded"))
    for name in ("ballast", "hung"):
        (desk.state_dir / name).rmdir()
    desk.until_true(lambda: not desk.held(), "it is left")
    assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
    desk.daemons[-1].terminate()
    assert desk.daemons[-1].wait(60) == 0
    assert desk.start(tables=(TYPO,)).wait(60) == 2  # it holds nothing any more
    desk.daemons.pop()
    desk.start()
    desk.until_true(lambda: desk.read_log("reconciled") != [], "book and broker agree")
    assert ctl.main(["resume", "--state-dir", str(desk.state_dir), "--reason", "it is mended"]) == 0
    desk.until_time(new_york_ns(DAY, "13:01"))
    desk.daemons[-1].terminate()
    assert desk.daemons[-1].wait(60) == 0
    assert desk.books().state.risk.halt is None
    assert differences(desk.books(), desk.account) == []


MINE = """
from msgspec.structs import replace

from strategies.kit.entry import StrategyEntry
from strategies.option_scalper import SPEC, STRATEGY as SHIPPED, OptionScalper


class Mine(OptionScalper):
    spec = replace(SPEC, name="mine_scalper")


STRATEGY = StrategyEntry(Mine, SHIPPED.declaration, "mine")
"""


NUMBER = """
from strategies.kit.parameters import Parameter
STRATEGY = STRATEGY._replace(parameters={"n": Parameter(1)}, with_parameters=lambda values: Mine())
"""
NUMBERED = MINE + NUMBER

MISTAKES = {
    "no Python": MINE + "\nthis is no Python\n",
    "another name": MINE.replace("mine_scalper", "mine_other"),
    "no start": MINE.replace("class Mine(", "class Never(")
    + """

class Mine(Never):
    def start(self):
        raise TypeError("Missing required argument")

STRATEGY = StrategyEntry(Mine, SHIPPED.declaration, "mine")
""",
    "another symbol": NUMBERED.replace('"mine_scalper"', '"mine_scalper", symbols=("QQQ",)'),
    "another kind": TOY.replace('"toy_keeper"', '"mine_scalper"') + NUMBER.replace("Mine", "ToyKeeper"),
    "no parameter": MINE,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_strategy_of_one_s_own_that_cannot_be_used_leaves_what_it_holds_and_is_taken_up_again(
    bundled: Tape, tmp_path: Path, mistake: str
) -> None:
    file, numbers = tmp_path / "mine.py", ["n=1"]
    file.write_text(NUMBERED)
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        desk: Table = {"desk": {"strategy": str(file), "parameters": numbers}}
        with stage(
            bundled, DAY, "11:30", tmp_path / "desk", models, desk, {"risk": {"daily_loss_max": 0.5}}
        ) as own_desk:
            daemon = own_desk.start()
            own_desk.until_true(
                lambda: bool(own_desk.held()) and bool(own_desk.journaled("OrderFilled")), "something is held"
            )
            daemon.kill()
            assert daemon.wait(10) == -signal.SIGKILL
            file.write_text(MISTAKES[mistake])
            orders = len(own_desk.posts())
            own_desk.start()
            own_desk.until_true(
                lambda: "configuration" in [row["reason"] for row in own_desk.read_log("halted")], "the halt"
            )
            halts = str([row for row in own_desk.read_log("halted") if row["reason"] == "configuration"])
            assert "mine.py" in halts or "desk.parameters" in halts
            starts = own_desk.journaled("RunStarted")
            assert starts[-1]["trading"] == starts[0]["trading"]
            own_desk.until_true(lambda: not own_desk.held(), "it is left")
            assert own_desk.clock.now_ns() < new_york_ns(DAY, "12:56")
            assert {post["side"] for post in own_desk.posts()[orders:]} == {"sell"}
            own_desk.daemons[-1].terminate()
            assert own_desk.daemons[-1].wait(60) == 0
            assert own_desk.start().wait(60) == 2  # it holds nothing any more
            own_desk.daemons.pop()
            file.write_text(NUMBERED)
            own_desk.start()
            own_desk.until_true(lambda: own_desk.read_log("reconciled") != [], "book and broker agree")
            assert ctl.main(["resume", "--state-dir", str(own_desk.state_dir), "--reason", "it is mended"]) == 0
            own_desk.until_time(new_york_ns(DAY, "13:01"))
            own_desk.daemons[-1].terminate()
            assert own_desk.daemons[-1].wait(60) == 0
            with forgotten_again():
                state = own_desk.books().state
                assert (state.risk.halt, state.risk.strategy_off, state.model.version) == (None, False, "lively")
                assert differences(own_desk.books(), own_desk.account) == []


NAMED = {
    "a link": "{0}/active.py",
    "a link that moves on": "{0}/active.py",
    "its class": "{0}/.python/one/mine.py:Mine",
    "a path with .py": "{0}/.python/one/mine.py",
}


@pytest.mark.parametrize("named", NAMED)
def test_however_a_strategy_s_file_is_named_what_it_holds_is_left_when_an_upgrade_breaks_it(
    bundled: Tape, tmp_path: Path, named: str
) -> None:
    file, upgraded = (tmp_path / ".python" / release / "mine.py" for release in ("one", "two"))
    for place in (file, upgraded):
        place.parent.mkdir(parents=True)
        place.write_text(MINE)
    link = tmp_path / "active.py"
    link.symlink_to(file)
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": NAMED[named].format(tmp_path)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            daemon = desk.start()
            desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
            daemon.kill()
            assert daemon.wait(10) == -signal.SIGKILL
            if "moves" in named:
                link.unlink()
                link.symlink_to(upgraded)
                file = upgraded
            file.write_text("this is no Python\n")
            orders = len(desk.posts())
            desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            (halt,) = [row for row in desk.read_log("halted") if row["reason"] == "configuration"]
            assert f"{file}, line 1: " in str(halt)
            assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
            assert {post["side"] for post in desk.posts()[orders:]} == {"sell"}


@pytest.mark.parametrize("file_text", ["this is no Python\n", ""], ids=["no Python", "gone"])
def test_a_stopped_desk_whose_own_strategy_cannot_be_imported_is_told_to_leave_all_and_leaves(
    bundled: Tape, tmp_path: Path, file_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, reason = tmp_path / "mine.py", ["--reason", "it is broken"]
    file.write_text(MINE)
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": str(file)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            daemon = desk.start()
            desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
            daemon.kill()
            assert daemon.wait(10) == -signal.SIGKILL
            file.write_text(file_text) if file_text else file.unlink()
            orders, place = len(desk.posts()), ["--state-dir", str(desk.state_dir)]
            del sys.modules["mine"]
            with forgotten_again():
                assert ctl.main(["resume", *place, *reason]) == 2
                assert "mine.py" in capsys.readouterr().err
            with forgotten_again():
                assert ctl.main(["flatten", "--yes", *place, *reason]) == 0
                assert "halted: flatten: it is broken" in capsys.readouterr().out
            desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            assert desk.clock.now_ns() < new_york_ns(DAY, "12:00")  # not by the flatten before the close
            assert {post["side"] for post in desk.posts()[orders:]} == {"sell"}
            desk.daemons[-1].terminate()
            assert desk.daemons[-1].wait(60) == 0
            file.write_text(MINE)
            desk.start()
            desk.until_time(desk.clock.now_ns() + 60_000_000_000)
            assert ctl.main(["resume", *place, *reason]) == 0
            desk.until_time(new_york_ns(DAY, "13:01"))
            desk.daemons[-1].terminate()
            assert desk.daemons[-1].wait(60) == 0
            with forgotten_again():
                state = desk.books().state
                assert (state.risk.halt, state.risk.strategy_off) == (None, False)
                assert differences(desk.books(), desk.account) == []


ENDS = {
    "its import": "import os\nos._exit(9)\n",
    "what is stepped again": MINE.replace(
        "\n\nSTRATEGY", "\n    def observe(self, *_):\n        import os\n        os._exit(9)\n\n\nSTRATEGY"
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_strategy_of_one_s_own_that_ends_two_starts_is_left_out_of_the_third_which_leaves_what_is_held(
    bundled: Tape, tmp_path: Path, end: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": str(file)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            daemon = desk.start()
            desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
            daemon.kill()
            assert daemon.wait(10) == -signal.SIGKILL
            file.write_text(ENDS[end])
            for _ in range(2):
                assert desk.start().wait(60) == 9
            desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
            (halt,) = [row for row in desk.read_log("halted") if row["reason"] == "configuration"]
            assert f"{file}: its code ended the process in 2 starts, without an error" in str(halt)
            desk.daemons[-1].terminate()
            assert desk.daemons[-1].wait(60) == 0
            file.write_text(MINE)  # what is mended is tried again
            desk.start()
            desk.until_time(desk.clock.now_ns() + 60_000_000_000)
            assert ctl.main(["resume", "--state-dir", str(desk.state_dir), "--reason", "it is mended"]) == 0
            desk.until_time(new_york_ns(DAY, "13:01"))
            desk.daemons[-1].terminate()
            assert desk.daemons[-1].wait(60) == 0
            with forgotten_again():
                assert desk.books().state.risk.halt is None
                assert differences(desk.books(), desk.account) == []


METHOD = MINE.replace("\n\nSTRATEGY", "\n    def {}:\n        __import__('time').sleep(600)\n\n\nSTRATEGY")
HANGS = {"its constructor": "__init__(self)", "its start": "start(self)", "its golden tape": "observe(self, *_)"}


@pytest.mark.parametrize("call", HANGS)
def test_a_strategy_of_one_s_own_that_hangs_in_two_starts_is_left_out_of_the_third_which_leaves_what_is_held(
    bundled: Tape, tmp_path: Path, call: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    quick = another_release(tmp_path / "quick", "CALL_MOST_S = 180.0", "CALL_MOST_S = 2.0", "daemon/engine/own_code.py")
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": str(file)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            daemon = desk.start(release=quick)
            desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
            daemon.kill()
            assert daemon.wait(10) == -signal.SIGKILL
            file.write_text(METHOD.format(HANGS[call]))
            for _ in range(2):
                assert desk.start(release=quick).wait(60) == 1
            desk.start(release=quick)
            desk.until_true(lambda: not desk.held(), "it is left")
            assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
            (halt,) = [row for row in desk.read_log("halted") if row["reason"] == "configuration"]
            line = len(METHOD[: METHOD.index("sleep")].splitlines())
            assert f"in 2 starts, without an error, the last in mine.py:{line} " in str(halt["detail"])
            log = (desk.folder / "log").read_text()
            assert log.count(f"{file}: a call of its code did not return in 2 s: this start ends\n") == 2
            assert log.count(f"{file}: the last start ended in its code, in mine.py:{line} ") == 1
