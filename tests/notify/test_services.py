"""Where messages go: addresses from a file or a credential, none of which is ever shown."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.notify.command import NotifyProblem, Services, _Service, addresses, main
from tests.support.outside.inbox import inbox

pytest.importorskip("apprise", reason="needs apprise: make training installs it")


def test_addresses_are_lines_of_a_file_or_of_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "urls"
    file.write_text("# my phone\nntfy://localhost/a\n\n  json://localhost  \n")
    assert addresses(file) == (["ntfy://localhost/a", "json://localhost"], str(file))
    monkeypatch.setenv("NOTIFY_URLS", "json://environment")
    assert addresses(None) == (["json://environment"], "environment NOTIFY_URLS")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "NOTIFY_URLS").write_text("json://credential\n")
    assert addresses(None) == (["json://credential"], str(tmp_path / "NOTIFY_URLS"))


def test_what_is_wrong_is_named_with_the_cure_and_without_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_URLS", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotifyProblem, match="environment NOTIFY_URLS holds no address: write one of Apprise's"):
        addresses(None)
    with pytest.raises(NotifyProblem, match="nowhere: the addresses cannot be read"):
        addresses(tmp_path / "nowhere")
    with pytest.raises(NotifyProblem, match="urls: address 2 is none that Apprise knows") as error:
        Services(["json://localhost", "telegraph://t0ken"], "urls")
    assert "t0ken" not in str(error.value)
    with pytest.raises(NotifyProblem, match="urls: address 1 is none that Apprise knows") as error:
        Services(["dbus://user:t0ken@[::1"], "urls")  # Apprise itself raises at this one
    assert "t0ken" not in str(error.value)


def test_a_message_goes_to_every_service_and_one_that_refuses_is_named_by_its_kind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with inbox() as box, inbox() as other:
        services = Services([box.url, other.url], "urls")
        assert services.send("a title", "a body") == []
        box.status = 500
        assert services.send("another", "body") == ["json"]
        assert (box.titles, other.titles) == (["a title"], ["a title", "another"])
        assert box.messages[0]["message"] == "a body"
    assert services.send("nobody listens", "") == ["json", "json"]
    assert capfd.readouterr() == ("", "")


def test_a_service_that_takes_long_keeps_no_other_one_waiting() -> None:
    """The daemon kills an alarm's run after ten seconds: a dead service in front must not have used them up."""
    meet = threading.Barrier(3)

    class Waiting:
        def notify(self, **_: str) -> bool:
            meet.wait(60)  # all three are asked at the same time, or it raises
            return True

    services = Services(["json://localhost"] * 3, "urls")
    services._services = [_Service("json", Waiting()) for _ in range(3)]
    assert services.send("a title", "a body", 120) == []


def test_a_service_whose_answer_never_ends_has_not_taken_the_message_and_holds_up_no_other() -> None:
    ends, sent = threading.Event(), []

    class Endless:
        def notify(self, **message: str) -> bool:
            sent.append(message["title"])
            return ends.wait()

    class Quick:
        def notify(self, **_: str) -> bool:
            return True

    services = Services(["json://localhost"], "urls")
    endless = _Service("json", Endless())
    services._services = [endless]
    assert services.send("first", "", 0.01) == ["json"]
    services._services.append(_Service("ntfy", Quick()))
    assert services.send("second", "", 120) == ["json"]
    assert endless._sending is not None
    ends.set()
    assert endless._sending.result(120)
    assert services.send("third", "", 120) == []
    assert sent == ["first", "third"]  # one thread, however many messages meet it


def test_a_program_ends_while_a_service_still_answers(tmp_path: Path) -> None:
    """Apprise asks on threads of its own, for which Python waits."""
    with inbox() as box:
        box.ends = threading.Event()
        (tmp_path / "urls").write_text(box.url)
        code = "import sys; from daemon.notify import command; command.ALARM_S = 1.0; sys.exit(command.main())"
        arguments = [sys.executable, "-c", code, "alarm", "--urls", str(tmp_path / "urls")]
        line = json.dumps({"desk": "paper-1", "alarm": "wal_large", "detail": "mib 300", "time": "now"})
        try:
            ended = subprocess.run(arguments, input=line, capture_output=True, text=True, timeout=120, check=False)
        finally:
            box.ends.set()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "rltrader-notify: not taken by json: check its address and the network\n"


@pytest.mark.parametrize("option", [["--urls"], []])
def test_an_address_in_place_of_its_file_is_refused_and_not_shown(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["alarm", *option, "tgram://s3cret/12345"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert ("expected a file that has one a line" in error) is bool(option)
    assert not any(part in error for part in ("s3cret", "12345"))


@pytest.mark.parametrize(("status", "taken"), [(301, False), (302, False), (303, False), (307, True), (308, True)])
def test_a_redirect_to_a_page_has_not_taken_the_message_and_one_that_carries_it_on_has(
    status: int, taken: bool
) -> None:
    with inbox() as box, inbox() as other:
        box.status, box.leads_to = status, f"http://127.0.0.1:{other.port}/login"
        assert Services([box.url], "urls").send("a title", "a body") == ([] if taken else ["json"])
        assert other.titles == ["a title"] * taken


def test_without_apprise_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ImportError):
        importlib.import_module("apprise")
    with pytest.raises(NotifyProblem) as error:
        Services(["json://localhost"], "urls")
    assert str(error.value) == "apprise is not installed: pip install -c constraints.txt -e '.[notify]'"
