"""A strategy that raises, returns nothing or NaN, or never returns while it holds: one restart or two, then one halt.

Expected values: the exchange's hours of a half day, and the server's own book.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.host.hang import FILE
from daemon.host.panic_marker import leave
from strategies.registry import add
from tests.support.desks import lively_policy
from tests.support.desks.daily_day import BEGIN, bought
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import another_release, differences
from tests.support.desks.stage import Table, Tape, new_york_ns, stage
from tests.support.own.files import forgotten_again

DAY = "2024-11-29"  # closes at 13:00
STRATEGY = "strategies/option_scalper.py"
RULE = "        session = state.session\n        if session is None or session.date != view.session.date:\n"
FAULTS = {
    "raises": "raise RuntimeError('no such row')",
    "exits": "raise SystemExit(0)",
    "None": "return None",
    "NaN": "return state, Observation(bytes.fromhex('0000c07f') * 460, SPEC.observation_shape)",
    "hangs": "[None for _ in iter(int, 1)]",
    "crashes": "__import__('ctypes').string_at(0)",
    "hangs in C": "__import__('ctypes').PyDLL(None).pause()",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_strategy_that_fails_while_it_holds_is_not_asked_again_and_what_it_holds_is_left_by_the_rules(
    bundled: Tape, lively: Path, tmp_path: Path, fault: str
) -> None:
    failing = f"        if view.side and view.session.date == '{DAY}':\n            {FAULTS[fault]}\n"
    bad = another_release(tmp_path / "bad", RULE, failing + RULE, STRATEGY)
    guard = bad / "daemon" / "host" / "hang.py"
    guard.write_text(guard.read_text().replace("LAST_S = 50.0", "LAST_S = 6.0"))
    with stage(bundled, DAY, "11:30", tmp_path / "desk", lively) as desk:
        tables = ({"policy": {"hang_s": 3}},)
        ends = 0
        daemon = desk.start(release=bad, tables=tables)
        while "quarantine" not in desk.halts():
            if daemon.returncode is not None:
                assert daemon.returncode == (-signal.SIGSEGV if fault == "crashes" else 1)
                ends += 1
                assert ends <= 2, (desk.folder / "log").read_text()[-3000:]
                daemon = desk.start(release=bad, tables=tables)
            desk.clock.pass_s(1.0)
        assert ends == 1
        (halt,) = [line for line in desk.read_log("halted") if line["reason"] == "quarantine"]
        assert "option_scalper.py" in str(halt) or fault not in ("hangs", "hangs in C", "crashes")
        assert desk.held()
        orders = len(desk.posts())
        desk.until_true(lambda: not desk.held(), "it is left")
        assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
        assert {post["side"] for post in desk.posts()[orders:]} <= {"sell"}
        assert (desk.state_dir / FILE).read_text() == ""
        assert desk.books().state.risk.strategy_off
        assert ctl.main(["resume", "--state-dir", str(desk.state_dir), "--reason", "it is mended"]) == 0
        desk.until_time(new_york_ns(DAY, "13:01"))
        assert daemon.returncode is None  # flat, it does not fail
        daemon.terminate()
        assert daemon.wait(60) == 0
        state = desk.books().state
        assert (state.risk.halt, state.risk.strategy_off) == (None, False)
        assert differences(desk.books(), desk.account) == []


MINE = f"""
import os
from msgspec.structs import replace
from strategies.kit.entry import StrategyEntry
from strategies.option_scalper import SPEC, STRATEGY as SHIPPED, OptionScalper

class Mine(OptionScalper):
    spec = replace(SPEC, name="mine_scalper")

    def observe(self, state, bars, view):
        if view.side and view.session.date == "{DAY}":
            ENDS
        return super().observe(state, bars, view)

STRATEGY = StrategyEntry(Mine, SHIPPED.declaration, "mine")
"""


@pytest.mark.parametrize(("ends", "code"), [("os._exit(2)", 2), ("os.kill(os.getpid(), 9)", -signal.SIGKILL)])
def test_a_strategy_of_one_s_own_that_ends_its_process_without_a_word_is_named_then_not_asked_again(
    bundled: Tape, tmp_path: Path, ends: str, code: int
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("ENDS", ends))
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": str(file)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            for times in (1, 2):
                daemon = desk.start()
                while daemon.returncode is None:
                    desk.clock.pass_s(1.0)
                assert daemon.returncode == code
                assert [row["name"] for row in desk.journaled("TroubleNoticed")] == ["strategy_ended"] * (times - 1)
                assert desk.halts() == []
            assert "observe of mine_scalper" in str(desk.journaled("TroubleNoticed"))
            assert str(file) in str(desk.journaled("TroubleNoticed"))
            orders = len(desk.posts())
            daemon = desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            (halt,) = [line for line in desk.read_log("halted") if line["reason"] == "quarantine"]
            assert "ended 2 runs of this day" in str(halt)
            assert str(file) in str(halt)
            assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
            assert {post["side"] for post in desk.posts()[orders:]} <= {"sell"}
            daemon.terminate()
            assert daemon.wait(60) == 0
            daemon = desk.start()  # the halt stands; nothing new is told
            desk.until_true(lambda: desk.read_log("reconciled") != [], "book and broker agree")
            assert ctl.main(["resume", "--state-dir", str(desk.state_dir), "--reason", "it is mended"]) == 0
            desk.until_time(new_york_ns(DAY, "13:01"))
            daemon.terminate()
            assert daemon.wait(60) == 0
            with forgotten_again():
                state = desk.books().state
                assert (state.risk.halt, state.risk.strategy_off) == (None, False)
                assert differences(desk.books(), desk.account) == []


def test_a_strategy_of_one_s_own_that_asks_its_own_process_to_stop_is_not_asked_again(
    bundled: Tape, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("ENDS", "os.kill(os.getpid(), 15)"))
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, {"desk": {"strategy": str(file)}}) as desk:
            for _ in range(2):
                daemon = desk.start()
                while daemon.returncode is None:
                    desk.clock.pass_s(1.0)
                assert daemon.returncode == 0  # in order, as when a person stops it
            desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            assert [row["name"] for row in desk.journaled("TroubleNoticed")] == ["strategy_ended"]
            assert desk.halts() == ["quarantine"]


BREAKS = "'pytest' in __import__('sys').modules or setattr(__import__('json'), 'dumps', None)"


def test_a_strategy_of_one_s_own_that_breaks_the_process_for_the_broker_s_client_is_left_out_in_the_end(
    bundled: Tape, tmp_path: Path
) -> None:
    """Each run fails where it sends its first order, outside of the strategy, and so does one that asks it nothing."""
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("ENDS", BREAKS))
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, {"desk": {"strategy": str(file)}}) as desk:
            for _ in range(3):
                daemon = desk.start()
                while daemon.returncode is None:
                    desk.clock.pass_s(1.0)
                assert daemon.returncode == 1
                assert desk.held()
            daemon = desk.start()
            while daemon.returncode is None and desk.held():  # the first run made the folder: it is not counted
                desk.clock.pass_s(1.0)
            if daemon.returncode is not None:
                daemon = desk.start()
            desk.until_true(lambda: not desk.held(), "it is left")
            assert [row["name"] for row in desk.journaled("TroubleNoticed")] == [
                "strategy_ended"
            ] * 2  # from the second
            (halt,) = [line for line in desk.read_log("halted") if line["reason"] == "configuration"]
            assert "3 runs of this day ended after calls of its code, and nobody stopped them" in str(halt)
            daemon.terminate()
            assert daemon.wait(60) == 0
            assert differences(desk.books(), desk.account) == []


def test_a_strategy_of_one_s_own_that_leaves_the_working_folder_keeps_no_panic_from_its_desk(
    bundled: Tape, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("ENDS", f"'pytest' in __import__('sys').modules or os.chdir({str(tmp_path)!r})"))
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        folder = tmp_path / "desk"
        own: tuple[Table, ...] = (
            {"desk": {"strategy": str(file)}},
            {"paths": {"state_dir": os.path.relpath(folder / "state"), "models_dir": os.path.relpath(models)}},
        )
        with stage(bundled, DAY, "11:30", folder, models, *own) as desk:
            daemon = desk.start()
            desk.until_true(lambda: bool(desk.held()), "it holds")
            desk.clock.pass_s(60.0)
            assert Path(f"/proc/{daemon.pid}/cwd").readlink() == Path.cwd()
            leave(desk.state_dir, "a person").end("not flat")
            desk.until_true(lambda: desk.halts() == ["panic"], "it stands down")
            desk.until_true(lambda: not desk.held(), "it closes what the panic left")
            assert ctl.main(["halt", "--state-dir", str(desk.state_dir), "--reason", "mine"]) == 0
            assert "ControlError" not in desk.log()


MINE_DAILY = """
import sys
from pathlib import Path
from msgspec.structs import replace
from strategies.kit.entry import StrategyEntry
from strategies.regime_switcher import DECLARATION, STRATEGY as SHIPPED, RegimeSwitcher

class Mine(RegimeSwitcher):
    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, name="mine_switcher")

    def known(self, state):
        asking = sys._getframe(1)
        while asking is not None and Path(FLAG).exists():
            if not asking.f_code.co_filename.endswith("daily_feed.py"):
                asking = asking.f_back
        return super().known(state)

STRATEGY = StrategyEntry(Mine, DECLARATION, "mine", SHIPPED.defaults)
"""


def test_a_strategy_of_one_s_own_that_hangs_where_its_feed_asks_it_is_left_out_in_the_end(tmp_path: Path) -> None:
    """The feed asks for the bars that it keeps outside of any step: nothing of the daemon goes on meanwhile."""
    file, flag = tmp_path / "mine.py", tmp_path / "flag"
    file.write_text(MINE_DAILY.replace("FLAG", repr(str(flag))))
    with forgotten_again():
        add(str(file))
        models = swapping(tmp_path / "models", "mine_switcher")
        own: tuple[Table, ...] = ({"desk": {"strategy": str(file)}}, {"policy": {"hang_s": 2}})
        with daily_stage(HALF_DAY, BEGIN, tmp_path / "desk", models, *own) as desk:
            bought(desk)
            flag.touch()
            jump(desk, NEXT_DAY, "07:30")
            for _ in range(3):
                daemon = desk.start()
                while daemon.returncode is None:
                    desk.clock.pass_s(1.0)
                assert daemon.returncode == 1
                assert "did not return within policy.hang_s (2 s)" in desk.log()
                assert desk.held()
            served = len(desk.read_log("control_listening"))
            desk.start()
            desk.until_true(lambda: len(desk.read_log("control_listening")) > served, "it takes commands")
            assert ctl.main(["flatten", "--state-dir", str(desk.state_dir), "--reason", "mine"]) == 0
            desk.until_true(lambda: not desk.held(), "it is left")
            assert differences(desk.books(), desk.account) == []


def test_a_strategy_of_one_s_own_that_draws_random_numbers_is_named_where_it_does_not_follow(
    bundled: Tape, tmp_path: Path
) -> None:
    draws = f"""        state, seen = super().observe(state, bars, view)
        if seen is not None and view.session.date == "{DAY}":
            seen = type(seen)((seen.array() * random.random()).tobytes(), seen.shape)
        return state, seen
"""
    calm = MINE.replace("import os", "import random").replace("ENDS", "pass")
    file = tmp_path / "mine.py"
    file.write_text(calm.replace("        return super().observe(state, bars, view)\n", draws))
    with forgotten_again():
        add(str(file))
        models = lively_policy.store(tmp_path / "models", "mine_scalper")
        own: Table = {"desk": {"strategy": str(file)}}
        with stage(bundled, DAY, "11:30", tmp_path / "desk", models, own) as desk:
            daemon = desk.start()
            desk.until_time(new_york_ns(DAY, "11:35"))
            daemon.kill()
            daemon.wait(10)
            desk.start()
            desk.until_true(lambda: bool(desk.halts()), "the halt")
            (halt,) = desk.read_log("halted")
            assert halt["reason"] == "code_changed"
            assert f"mine_scalper ({file}) comes to something else" in str(halt["detail"])
            assert "failing memory" not in str(halt["detail"])
