"""The locks by which the desks of a host keep to one account each. Expected words and modes are those of the manual."""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from pathlib import Path

import pytest

from daemon.host import account_lock
from daemon.host.account_lock import AccountLock, AccountTakenError, Holder, lock_folder
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass

PAPER, LIVE = "https://paper.example", "https://live.example"
KEY = "PKSECRETSECRET"


def lock(folder: Path, desk: str, service: str = PAPER) -> AccountLock:
    return AccountLock(folder, Holder(desk, f"/var/lib/rltrader/{desk}", 42), service)


def test_two_desks_with_the_same_key_are_one_too_many(tmp_path: Path) -> None:
    first, second = lock(tmp_path, "first"), lock(tmp_path, "second")
    first.claim_key(KEY)
    with pytest.raises(AccountTakenError, match=r"first, state directory /var/lib/rltrader/first, process 42"):
        second.claim_key(KEY)
    first.close()
    second.claim_key(KEY)
    second.close()


def test_two_keys_of_one_account_meet_by_its_number(tmp_path: Path) -> None:
    first, second = lock(tmp_path, "first"), lock(tmp_path, "second")
    first.claim_key(KEY)
    first.claim_number("PA1")
    second.claim_key("PKANOTHERKEY")
    with pytest.raises(AccountTakenError, match=r"account PA1 at https://paper\.example .* one account has one desk"):
        second.claim_number("PA1")
    first.close()
    second.close()


def test_one_desk_may_claim_its_account_with_every_report(tmp_path: Path) -> None:
    desk = lock(tmp_path, "first")
    desk.claim_number("PA1")
    desk.claim_number("PA1")
    desk.close()


@pytest.mark.parametrize("streams", [True, False])
def test_who_has_the_streams_of_an_account_is_named(tmp_path: Path, *, streams: bool) -> None:
    desk, dry = AccountLock(tmp_path, Holder("first", "/first", os.getpid(), streams), PAPER), lock(tmp_path, "dry")
    assert dry.streams_taken(KEY) == ""
    desk.claim_key(KEY)
    assert ("first, state directory /first, process" in dry.streams_taken(KEY)) == streams
    assert lock(tmp_path, "dry", LIVE).streams_taken(KEY) == ""
    desk.close()
    assert dry.streams_taken(KEY) == ""


def test_the_same_key_at_another_service_is_another_account(tmp_path: Path) -> None:
    paper, live = lock(tmp_path, "paper"), lock(tmp_path, "live", LIVE)
    paper.claim_key(KEY)
    live.claim_key(KEY)
    paper.close()
    live.close()


def test_neither_key_nor_number_stands_in_a_file_or_its_name(tmp_path: Path) -> None:
    desk = lock(tmp_path, "first")
    desk.claim_key(KEY)
    desk.claim_number("PA123456")
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{32}\.account", file.name)
        assert KEY not in file.read_text()
        assert "PA123456" not in file.read_text()
    desk.close()


def test_a_folder_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="mend owner and mode"):
        lock(tmp_path / "file", "first").claim_key(KEY)


def test_a_holder_that_cannot_be_read_is_said_to_be_one(tmp_path: Path) -> None:
    first, second = lock(tmp_path, "first"), lock(tmp_path, "second")
    first.claim_key(KEY)
    next(tmp_path.iterdir()).write_text("{")
    with pytest.raises(AccountTakenError, match="which did not say its name"):
        second.claim_key(KEY)
    first.close()


def test_the_folder_is_systemd_s_then_the_units_then_one_of_the_user_s_own(tmp_path: Path) -> None:
    assert lock_folder({"RUNTIME_DIRECTORY": "/run/rltrader:/run/more"}, tmp_path) == Path("/run/rltrader")
    assert lock_folder({}, tmp_path) == tmp_path
    assert (
        lock_folder({}, tmp_path / "none") == Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local" / "state" / "rltrader"
    )
    desk = lock(tmp_path / "made", "first")
    desk.claim_key(KEY)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    desk.close()


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EACCES, False)])
def test_a_disk_that_is_full_may_pass_and_a_permission_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(account_lock, "open_own", fails)
    with pytest.raises(StateDirError, match=os.strerror(number)) as refused:
        lock(tmp_path, "first").claim_key(KEY)
    assert isinstance(refused.value, MayPass) == passes  # exit code 1, and systemd starts it again
