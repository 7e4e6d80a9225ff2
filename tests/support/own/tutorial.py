"""A manual as steps: its command blocks, each with the output that it promises."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"(?:<!-- until: (?P<until>.+?) -->\n)?```(?P<language>sh|text)\n(?P<text>.*?)```\n", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NUMBER = re.compile(r"[-−+]?[0-9][0-9.,:/]*")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
PATIENCE_S = 1200.0


@dataclass(frozen=True, slots=True)
class CommandBlock:
    """Commands that a reader types into one shell. `until`: it runs on until this text is there, then Ctrl-C."""

    script: str
    until: str
    promised: list[str] = field(default_factory=list)


def blocks_of(page: Path) -> list[CommandBlock]:
    """Return the page's command blocks with the output that follows each, in their order."""
    blocks: list[CommandBlock] = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] == "sh":
            blocks.append(CommandBlock(match["text"], match["until"] or ""))
        else:
            blocks[-1].promised.extend(match["text"].splitlines())
    return blocks


class Typed:
    """A block typed into a terminal of its own, in the folder `place`."""

    def __init__(self, block: CommandBlock, place: Path, environment: dict[str, str]) -> None:
        self._block = block
        master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["bash", "-e", "-c", f"{block.script}\npwd > .where"],
            cwd=place,
            env=environment | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._master, self._parts = master, list[bytes]()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the last writer is gone
                return
            if not part:
                return
            self._parts.append(part)

    @property
    def shown(self) -> str:
        """What the terminal showed so far, without colours."""
        return _ESCAPE.sub("", b"".join(self._parts).decode("utf-8", "replace")).replace("\r", "\n")

    def wait(self) -> None:
        """Wait for the end, or for the text that the block runs on to."""
        end = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < end:
            if self._block.until and self._block.until in self.shown:
                return
            time.sleep(0.1)
        if not self._block.until:
            self._reading.join(10.0)
            assert self._process.returncode == 0, self.shown

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
            self._process.wait(PATIENCE_S)
        self._reading.join(10.0)
        os.close(self._master)


def missing(promised: list[str], output: str) -> list[str]:
    """Return the promised lines whose words do not all stand in one shown line; order, numbers and frames are free."""
    lines = [_words(line) for line in output.splitlines()]
    return [line for line in promised if not any(_contains(have, _words(line)) for have in lines)]


def _words(line: str) -> list[str]:
    words = [word.rsplit("/", 1)[-1].strip(",.;:()") for word in re.sub(r"[│┃|]", " ", line).split()]
    plain = [_NUMBER.sub("", word) for word in words if not _DIGEST.fullmatch(word)]
    return [word for word in plain if re.search(r"[^\W\d_]", word)]


def _contains(have: list[str], names: list[str]) -> bool:
    return not Counter(names) - Counter(have)
