"""`rltraderctl models` on a store of small policies: what it shows, what it refuses to name, and how it goes back."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from rich.console import Console

from daemon.cli import ctl
from daemon.cli.models import store as models_store
from daemon.cli.models.command import REFUSED
from daemon.config.load import EXIT_CODE
from daemon.models import pointer
from daemon.models.ladder.cards import HoldReasons, change_holds, holds_of
from daemon.models.pointer import PROMOTIONS_FILE
from daemon.models.signature import SIGNATURE_FILE
from strategies.kit.manifest import MANIFEST_FILE
from tests.support.models.climbing import CARD, with_card
from tests.support.models.malicious_models import MALICIOUS
from tests.support.models.swaps import damage, publish, publish_malicious

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Versions a, b (whole), damaged and malicious; no pointer; no configuration beside."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "store"
    publish(folder, "a", 1, promoted=True)
    publish(folder, "b", 2)
    damage(publish(folder, "damaged", 3))
    publish_malicious(folder, "malicious", "an If")
    return folder


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`rltraderctl models WORD …` on the store: exit code, output, errors."""
    output = io.StringIO()
    monkeypatch.setattr(ctl, "_console", lambda: Console(file=output, width=200))

    def go(word: str, *arguments: str) -> tuple[int, str, str]:
        output.seek(0)
        output.truncate()
        where = [] if word == "keygen" else ["--models-dir", str(store)]
        code = ctl.main(["models", word, *arguments, *where])
        return code, output.getvalue(), capsys.readouterr().err

    return go


def current(store: Path) -> str:
    path = store / "option_scalper" / "current"
    return path.read_text().strip() if path.exists() else ""


def test_a_version_is_activated_after_all_checks_and_the_history_says_who_and_why(run: Run, store: Path) -> None:
    code, output, _ = run("activate", "a", "--reason", "the first", "--who", "alice")
    assert (code, current(store)) == (0, "a")
    assert "none -> a" in output
    (line,) = (store / "option_scalper" / PROMOTIONS_FILE).read_text().splitlines()
    entry = json.loads(line)
    assert (entry["who"], entry["why"], entry["to"]) == ("alice", "the first", "a")
    assert entry["time_ns"] > 1_700_000_000 * 10**9


def test_a_folder_in_the_place_of_current_is_put_aside_by_an_activation(run: Run, store: Path) -> None:
    """As a container makes one, whose mount names a file that is not there."""
    shelf = store / "option_scalper"
    (shelf / "current").mkdir()
    (shelf / "current" / "kept").write_text("x")
    assert (run("activate", "a", "--reason", "x")[0], current(store)) == (0, "a")
    assert [path.read_text() for path in shelf.glob(".current.*/kept")] == ["x"]


def test_what_a_desk_of_another_user_reads_is_readable_whatever_the_umask(run: Run, store: Path) -> None:
    former = os.umask(0o077)
    try:
        assert run("activate", "a", "--reason", "x")[0] == run("hold", "b", "--reason", "x")[0] == 0
    finally:
        os.umask(former)
    for name in ("current", PROMOTIONS_FILE, "holds.json"):
        assert stat.S_IMODE((store / "option_scalper" / name).stat().st_mode) == 0o644, name


def test_each_command_names_the_one_that_leads_on_about_the_same_store(run: Run, store: Path) -> None:
    def follows(word: str, *arguments: str) -> str:
        code, _, error = run(word, *arguments)
        assert code == 0
        (line,) = error.splitlines()
        return line

    where = f" --models-dir {store}"
    assert follows("check", "a") == f"next: rltraderctl models activate a --reason TEXT{where}"
    assert follows("activate", "a", "--reason", "x") == "next: rltraderctl reload --reason TEXT"
    assert follows("check", "a") == f"next: rltraderctl models list{where}"
    assert follows("list") == f"next: rltraderctl models show a{where}"
    assert follows("candidate", "b", "--reason", "x") == "next: rltraderctl shadow"
    assert follows("hold", "b", "--reason", "x") == f"next: rltraderctl models release b --reason TEXT{where}"
    assert "next:" not in run("activate", "damaged", "--reason", "x")[2]


def test_the_former_name_of_the_command_still_works_and_names_the_new_one(run: Run, store: Path) -> None:
    code, _, error = run("promote", "a", "--reason", "from a script")
    assert (code, current(store)) == (0, "a")
    assert error.splitlines()[0] == "rltraderctl: models promote is now called models activate"


@pytest.mark.parametrize(("trades", "options", "active"), [(0, (), ""), (0, ("--allow-passive",), "b"), (1, (), "b")])
def test_a_version_that_never_traded_in_its_test_is_activated_on_a_further_request_alone(
    run: Run, store: Path, trades: int, options: tuple[str, ...], active: str
) -> None:
    path = store / "option_scalper" / "b" / MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["metrics"] = {"test": {"trades": trades}}
    path.write_text(json.dumps(manifest))
    code, _, error = run("activate", "b", "--reason", "x", *options)
    assert (code, current(store)) == (0 if active else REFUSED, active)
    assert ("add --allow-passive" in error) == (not active)
    if not active:  # what `list` leads on with names the flag, and no version that is refused, such as `damaged`
        shutil.rmtree(store / "option_scalper" / "malicious")
        flag = "--allow-passive --reason TEXT"
        assert run("list")[2] == f"next: rltraderctl models activate b {flag} --models-dir {store}\n"


def test_the_passive_policy_is_activated_although_it_never_trades(run: Run, store: Path) -> None:
    path = store / "option_scalper" / "b" / MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["metrics"] = {"exported": "passive", "test": {"trades": 0}}
    path.write_text(json.dumps(manifest))
    assert run("activate", "b", "--reason", "x")[0] == 0
    assert current(store) == "b"


@pytest.mark.parametrize(
    ("version", "check"), [("damaged", "policy digest"), ("malicious", MALICIOUS["an If"][1]), ("../a", "version name")]
)
def test_a_broken_version_is_named_by_no_pointer(run: Run, store: Path, version: str, check: str) -> None:
    for arguments in (("activate", version, "--reason", "why not"), ("check", version)):
        code, _, error = run(*arguments)
        assert code == REFUSED
        assert f"model refused, {check}" in error
    assert current(store) == ""


def test_a_rollback_goes_to_the_version_before_and_is_checked_too(run: Run, store: Path) -> None:
    assert run("rollback", "--reason", "x")[0] == REFUSED  # there is no history
    run("activate", "a", "--reason", "first")
    run("activate", "b", "--reason", "second")
    damage(store / "option_scalper" / "a")
    assert run("rollback", "--reason", "b loses")[0] == REFUSED
    assert current(store) == "b"
    damage(store / "option_scalper" / "a")  # whole again
    assert run("rollback", "--reason", "b loses")[0] == 0
    assert current(store) == "a"


def test_the_candidate_is_named_and_taken_back(run: Run, store: Path) -> None:
    pointer = store / "option_scalper" / "candidate"
    assert run("candidate", "b", "--reason", "try it")[0] == 0
    assert pointer.read_text() == "b\n"
    assert run("candidate", "--reason", "no name")[0] == EXIT_CODE
    assert run("candidate", "damaged", "--reason", "try that")[0] == REFUSED
    assert run("candidate", "--clear", "--reason", "enough")[0] == 0
    assert not pointer.exists()


def test_a_version_that_is_held_back_and_not_there_is_named(run: Run) -> None:
    assert "has no version" not in run("hold", "b", "--reason", "x")[1]
    code, output, _ = run("hold", "bb", "--reason", "x")
    assert (code, "has no version bb yet" in output) == (0, True)


def test_a_desk_that_has_chosen_a_version_is_not_said_to_follow(run: Run) -> None:
    assert "a running daemon follows" in run("activate", "a", "--reason", "x")[1]
    Path("config.toml").write_text('[policy]\nversion = "a"\n')
    for word, version in (("activate", ["b"]), ("rollback", [])):
        code, output, _ = run(word, *version, "--reason", "x")
        assert (code, "follows" in output) == (0, False)
        assert 'a desk of this configuration stays with policy.version = "a"' in output


def test_the_list_shows_every_version_its_pointers_and_what_is_refused(run: Run, store: Path) -> None:
    run("activate", "a", "--reason", "x")
    run("candidate", "b", "--reason", "x")
    code, output, _ = run("list")
    assert code == 0
    rows = {line.split()[0]: line for line in output.splitlines()}
    assert "current" in rows["a"]
    assert "candidate" in rows["b"]
    assert "refused, policy digest" in rows["damaged"]
    (store / "option_scalper" / "current").write_text("gone\n")
    assert "current names 'gone', and there is no such version" in run("list")[1]


def test_a_version_is_shown_with_its_history(run: Run) -> None:
    run("activate", "a", "--reason", "for a start")
    code, output, _ = run("show", "current")
    assert code == 0
    for part in ("version            a", "named by           current", "for a start", "bars.parquet", "2024-07-05"):
        assert part in output, part


def test_nothing_that_a_version_or_its_history_says_commands_the_terminal(run: Run, store: Path) -> None:
    shelf, evil = store / "option_scalper", "\x1b]52;c;b3duZWQ=\x07\x1b[8m\r"
    manifest = json.loads((shelf / "b" / MANIFEST_FILE).read_bytes())
    manifest["note"] = manifest["training"]["file"] = manifest["training"]["last_session"] = evil
    manifest["metrics"] = {evil: evil}
    (shelf / "b" / MANIFEST_FILE).write_text(json.dumps(manifest))
    line = {"time_ns": 0, "pointer": "current", "from": "a", "to": "b", "who": evil, "why": evil}
    (shelf / PROMOTIONS_FILE).write_text(json.dumps(line) + "\n")
    (shelf / "candidate").write_text(f"{evil}\n")
    for arguments in (("list",), ("show", "b"), ("check", "b"), ("candidate", "a", "--reason", "another")):
        code, output, error = run(*arguments)
        assert code == 0, arguments
        assert (output + error).replace("\n", "").isprintable(), arguments
    assert "\\x1b]52" in run("show", "b")[1]


def test_a_signed_version_is_good_for_its_public_key_alone(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    code, output, _ = run("keygen", str(key))
    public = output.split('"')[1]
    assert (code, len(public)) == (0, 44)
    monkeypatch.setenv("RLTRADER_POLICY__PUBLIC_KEY", public)
    assert "model refused, signature" in run("activate", "a", "--reason", "x")[2]
    code, output, _ = run("sign", "a", "--key", str(key))
    assert (code, public in output) == (0, True)
    assert (store / "option_scalper" / "a" / SIGNATURE_FILE).exists()
    assert run("activate", "a", "--reason", "x")[0] == 0
    assert "signed             yes" in run("show", "a")[1]
    assert run("keygen", str(key))[0] == EXIT_CODE
    assert run("sign", "damaged", "--key", str(key))[0] == REFUSED
    key.chmod(0o640)
    code, _, error = run("sign", "b", "--key", str(key))
    assert (code, "chmod 600" in error) == (EXIT_CODE, True)


def test_on_a_live_account_an_unpromoted_version_takes_no_promoted_ones_place(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("activate", "a", "--reason", "x")[0] == 0
    monkeypatch.setenv("RLTRADER_DESK__ACCOUNT", "live")
    monkeypatch.setenv("RLTRADER_DESK__ACCOUNT_NUMBER", "12345")
    monkeypatch.setenv("RLTRADER_ALPACA__TRADING_URL", "https://api.alpaca.markets")
    monkeypatch.setenv("RLTRADER_ALPACA__TRADE_STREAM_URL", "wss://api.alpaca.markets/stream")
    code, _, error = run("activate", "b", "--reason", "x")
    assert (code, "model refused, not promoted" in error) == (REFUSED, True)
    assert current(store) == "a"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "two\nlines"])
def test_a_change_without_a_plain_reason_is_not_made(run: Run, store: Path, reason: str) -> None:
    assert run("activate", "a", "--reason", reason)[0] == EXIT_CODE
    assert current(store) == ""


def test_what_is_no_strategy_and_no_store_is_said(run: Run, tmp_path: Path) -> None:
    assert run("list", "--strategy", "nobody")[0] == EXIT_CODE
    code, _, error = run("list", "--strategy", "daily_rebalancer")
    assert (code, "holds no version" in error) == (EXIT_CODE, True)
    assert "; for those of option_scalper add --strategy NAME" in error


def test_a_card_shows_where_a_version_comes_from(run: Run, store: Path) -> None:
    with_card(store, CARD)
    code, output, _ = run("show", "v2")
    assert code == 0
    for line in (
        "parent             v1",
        "trainer            trainer's code",
        "stream             rltrader:desk:epoch:experience, rows 1 to 900",
        "log                3,000 decisions of 10 sessions, exploration 3.0%",
        "lead by dr         +0.20000, 95 % interval +0.10000 to +0.30000",
    ):
        assert line in output
    unknown = msgspec.structs.replace(CARD, version="v3", leads={}, cannot_be_said="nothing was explored")
    with_card(store, unknown, seed=4)
    assert "lead               cannot be said: nothing was explored" in run("show", "v3")[1]


def test_a_version_that_is_swapped_while_it_is_checked_is_not_named(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(*_: object, **__: object) -> None:
        shutil.rmtree(store / "option_scalper" / "b")
        publish(store, "b", 9)

    run("activate", "a", "--reason", "x")
    monkeypatch.setattr(models_store, "try_model", swapped)
    code, _, error = run("activate", "b", "--reason", "x")
    assert (code, "is not the one that was judged" in error, current(store)) == (REFUSED, True, "a")


def test_of_two_who_hold_at_once_none_undoes_the_other_s(run: Run, store: Path) -> None:
    shelf, start_event = store / "option_scalper", threading.Event()
    first = threading.Thread(target=change_holds, args=(shelf, lambda former: slowly(former, start_event)))
    first.start()
    start_event.wait()
    assert run("hold", "b", "--reason", "too new", "--who", "alice")[0] == 0
    first.join()
    assert holds_of(shelf) == HoldReasons("a quiet week", {"b": "too new (by alice)"})


def slowly(former: HoldReasons, start_event: threading.Event) -> HoldReasons:
    start_event.set()
    time.sleep(0.2)
    return HoldReasons("a quiet week", former.held)


def test_who_names_a_version_that_is_held_back_or_holds_the_one_that_answers_is_told(run: Run, store: Path) -> None:
    assert run("activate", "a", "--reason", "x")[0] == 0
    output = run("hold", "current", "--reason", "it loses", "--who", "ann")[1]
    assert "held back: a; a is current and answers on" in " ".join(output.split())
    assert "held back: it loses (by ann)" in " ".join(run("list")[1].split())
    assert "held back it loses (by ann)" in " ".join(run("show", "a")[1].split())
    assert run("activate", "b", "--reason", "x")[0] == 0
    output = run("activate", "a", "--reason", "x")[1]
    assert "it is held back from the ladder: it loses (by ann)" in " ".join(output.split())
    assert run("release", "current", "--reason", "x")[0] == 0
    assert holds_of(store / "option_scalper") == HoldReasons()
    (store / "option_scalper" / "holds.json").write_text("{")
    assert run("rollback", "--reason", "x")[0] == 0


def test_a_store_that_cannot_be_written_is_told_without_a_cure_for_another_trouble(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, flags: int) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    plain = pointer._plain
    monkeypatch.setattr(pointer, "_plain", lambda path, flags: read_only(path, flags) if flags else plain(path, flags))
    code, _, error = run("activate", "a", "--reason", "x")
    assert (code, "Read-only file system" in error, "move it aside" in error) == (EXIT_CODE, True, False)


def test_a_hold_on_a_disk_that_is_read_only_names_the_file_of_holds(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: str | Path, *_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    made = os.open
    monkeypatch.setattr(Path, "unlink", read_only)  # Linux refuses it there for a missing file too
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, *mode, **more: read_only(path) if flags & os.O_CREAT else made(path, flags, *mode, **more),
    )
    code, _, error = run("hold", "b", "--reason", "x")
    assert code == EXIT_CODE
    assert f"Read-only file system: '{store / 'option_scalper' / 'holds.json'}'" in error


def test_versions_are_held_back_and_learning_is_frozen_with_who_and_why(run: Run, store: Path) -> None:
    shelf = store / "option_scalper"
    assert run("hold", "b", "--reason", "too new", "--who", "alice")[0] == 0
    assert run("freeze", "--reason", "a quiet week", "--who", "bob")[0] == 0
    assert holds_of(shelf) == HoldReasons("a quiet week (by bob)", {"b": "too new (by alice)"})
    assert run("thaw", "--reason", "go on")[0] == 0
    code, _, error = run("release", "a", "--reason", "never held")
    assert code == EXIT_CODE
    assert "a is not held back: b is" in error
    assert run("release", "b", "--reason", "old enough")[0] == 0
    assert holds_of(shelf) == HoldReasons()
    (shelf / "holds.json").write_text("{")
    code, _, error = run("hold", "b", "--reason", "again")
    assert (code, "model refused, holds" in error) == (REFUSED, True)
    (shelf / "holds.json").unlink()
    (shelf / "holds.json" / "x").mkdir(parents=True)
    assert run("freeze", "--reason", "nothing is in the way", "--who", "bob")[0] == 0
    assert holds_of(shelf) == HoldReasons("nothing is in the way (by bob)")
