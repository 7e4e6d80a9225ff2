"""The tutorial's section about the phone, word for word, at the loopback Telegram and a daily desk of shares."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from daemon.notify.desk_line import LocalDesk
from daemon.notify.listen import listening
from daemon.operator.signing import parse_keys
from tests.support.desks.daily_day import BEGIN
from tests.support.desks.daily_stage import HALF_DAY, daily_stage, swapping
from tests.support.desks.desk_run import environment
from tests.support.desks.stage import KEYS
from tests.support.outside.phones import heard
from tests.support.outside.telegram import BOT_ID, TOKEN, telegram
from tests.support.paths import REPOSITORY

SECTION = re.compile(r"## 7\. From the phone\n(.*?)\n## ", re.DOTALL)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
HELD = re.compile(r"[\d,]+ [A-Z]{3}(, [\d,]+ [A-Z]{3})*")
NUMBER = re.compile(r"[-+]?\d[\d,.]*")
CODE = re.compile(r"/yes [A-Z0-9]{6}")


def loose(text: str) -> str:
    """The text without its figures, codes and the names of what is held."""
    return NUMBER.sub("N", CODE.sub("/yes CODE", HELD.sub("HELD", text)))


def dialogue(text: str) -> list[tuple[str, str]]:
    """What is written, and the answer."""
    parts = re.split(r"^you> ", text, flags=re.MULTILINE)[1:]
    return [(words, answer.strip()) for words, _, answer in (part.partition("\n") for part in parts)]


def test_the_tutorial_s_words_to_the_bot_get_the_answers_that_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = SECTION.search((REPOSITORY / "docs" / "TUTORIAL.md").read_text())
    assert section is not None
    blocks = BLOCK.findall(section[1])
    prepare, _, listens = (text for kind, text in blocks if kind == "bash")
    (spoken,) = (text for kind, text in blocks if kind == "console")
    (table,) = (text for kind, text in blocks if kind == "toml")
    subprocess.run(["bash", "-e", "-c", prepare], cwd=tmp_path, check=True, env=environment())
    (tmp_path / "phone.toml").write_text(table)
    (tmp_path / "phone" / "TELEGRAM_TOKEN").write_text(f"{TOKEN}\n")
    key = (tmp_path / "phone" / "PHONE_KEYS").read_text().strip()
    assert listens.strip().endswith("rltrader-notify listen --config phone.toml")
    with daily_stage(HALF_DAY, BEGIN, tmp_path, swapping(tmp_path / "store")) as desk, telegram() as server:
        desk.start(
            environment={**KEYS, "MQTT_COMMAND_KEYS": key, "RLTRADER_CONTROL__SIGNED": "true"},
            tables=({"desk": {"name": "paper-1"}},),
        )
        desk.until_true(lambda: bool(desk.held().get("SPY")), "SPY is bought")
        desk.until_true(lambda: bool(desk.journaled("OrderFilled")), "the fill is journaled")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "phone"))
        phone = listening(tmp_path / "phone.toml")
        (entry,) = phone.desks
        handset = parse_keys(key)["handset"]
        line = LocalDesk(entry.name, desk.state_dir, "handset", handset, BOT_ID, desk.clock.now_ns)
        with heard(server, [line], phone.senders):
            for words, promised in dialogue(spoken):
                count = len(server.sent)
                if words.startswith("("):
                    server.press(words.strip("()"))
                else:
                    server.write(words)
                reply = server.until_sent(count + 1)[count]
                if words == "/buy SPY":
                    reply = reply.splitlines()[0]
                begin = promised.removesuffix("…")
                assert loose(reply)[: None if begin == promised else len(loose(begin))] == loose(begin), words
        assert len(desk.journaled("CloseRequested")) == 1
        assert desk.journaled("PauseRequested") == []
