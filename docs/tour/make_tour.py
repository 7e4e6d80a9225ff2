"""The moving picture of the README: `record` runs the commands and keeps what they print, `draw` makes the SVG of it.

.venv/bin/python docs/tour/make_tour.py record      # writes docs/tour/tour.json, real output of this machine
.venv/bin/python docs/tour/make_tour.py draw        # writes docs/tour/tour.svg; the same record gives the same bytes
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
RECORD, PICTURE = HERE / "tour.json", HERE / "tour.svg"
PROGRAMS = Path(sys.executable).parent
COLUMNS, ROWS = 104, 25
DOTS = "⋮"
CELL, LINE, MARGIN, BAR = 7.8, 18, 16, 34  # pixels: a character, a line, around the text, the title
TYPING_S, LINE_S, HOLD_S = 0.9, 0.06, 4.5  # a command appears, then its lines, then they stay
BAR_OF_INTEREST = "2024-12-03T11:35"
WHY = (  # lines of a decision that are shown; a row of dots stands for those between them
    r"^decision |^│ (0 |10 )|┃ (action|gate) |^│ (HOLD|BUY_|TRIM_|EXIT)|^(model|action|outcome)|"
    r"^│ (low_confidence|wide_spread) |┃ fill of |^│ [0-9a-f]{10}-\S+ │ \d+ +│"
)
KILLS = (9_000, 21_000)  # events in the journal after which the process is killed


def terminal(program: str, *arguments: str, columns: int = COLUMNS) -> list[str]:
    """What a program prints on a terminal of this width, in plain text."""
    control, side = pty.openpty()
    environment = of_the_demo() | {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": str(columns), "LINES": "50"}
    with subprocess.Popen([PROGRAMS / program, *arguments], stdout=side, stderr=subprocess.DEVNULL, env=environment):
        os.close(side)
        found = b""
        while chunk := _read(control):
            found += chunk
    os.close(control)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found.decode()).replace("\r\n", "\n")
    return [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]


def _read(control: int) -> bytes:
    try:
        return os.read(control, 65_536)
    except OSError:  # the other side is closed
        return b""


def events_in(state: Path) -> int:
    """Events in a journal so far."""
    try:
        with closing(sqlite3.connect(f"file:{state / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            return int(journal.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])
    except sqlite3.Error:
        return 0  # there is none yet


def of_the_demo() -> dict[str, str]:
    """Variables of a process that runs the version which `make demo` shows."""
    found = subprocess.run(
        [sys.executable, "-m", "daemon.models", "option_scalper"], capture_output=True, text=True, check=True
    ).stdout
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RLTRADER_")}
    return kept | {"RLTRADER_POLICY__VERSION": found.split()[0]}


def killed(arguments: list[str], state: Path, after: int) -> int:
    """Start the daemon and kill it when its journal has so many events; returns how many it has."""
    with subprocess.Popen(
        [PROGRAMS / "rltraderd", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=of_the_demo(),
    ) as process:
        while events_in(state) < after and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    if process.returncode != -signal.SIGKILL:
        raise SystemExit("make_tour: the run ended before it could be killed: lower KILLS")
    return events_in(state)


def record() -> None:
    """Run the commands; write what they printed."""
    tape = subprocess.run(
        [sys.executable, "-m", "daemon.tapes", "option_scalper"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "demo", Path(folder) / "again"
        table = terminal("rltraderd", "--dry-run", "--bars", tape, "--state-dir", str(one))
        why = terminal("rltraderctl", "decisions", "--state-dir", str(one), "--bar", BAR_OF_INTEREST, columns=180)
        again = ["--dry-run", "--bars", tape, "--state-dir", str(other)]
        counts = [killed(again, other, after) for after in KILLS]
        last = terminal("rltraderd", *again)
        verified = terminal("rltraderctl", "verify", "--state-dir", str(other))
    scenes: list[Any] = [
        {"title": "A dry run: 30 synthetic sessions", "command": "make demo",
         "lines": [line for line in _from(table, "option_scalper ·", "└") if "│ speed " not in line]},
        {"title": "Why this decision?",
         "command": f"rltraderctl decisions --state-dir demo --bar {BAR_OF_INTEREST}", "lines": _excerpt(why, WHY)},
        {"title": "Killed twice, and nothing is lost", "command": "rltraderd --dry-run --bars TAPE --state-dir again",
         "lines": [
             *(f"kill -9    (after {count:,} events in the journal; then the same command again)" for count in counts),
             "", *(line for line in last if re.search(r"│ (orders, fills|trades|realised P&L|journal) ", line)), "",
             "The run that was never killed:", *(line for line in table if "│ journal " in line), "",
             "$ rltraderctl verify --state-dir again", *verified,
         ]},
    ]  # fmt: skip
    RECORD.write_text(json.dumps(scenes, ensure_ascii=False, indent=1) + "\n")


def _from(lines: list[str], first: str, last: str) -> list[str]:
    """The lines from one that begins so to one that begins so."""
    start = next(place for place, line in enumerate(lines) if line.startswith(first))
    end = next(place for place, line in enumerate(lines[start:], start) if line.startswith(last))
    return lines[start : end + 1]


def _excerpt(lines: list[str], wanted: str) -> list[str]:
    """The lines that match; one with dots where others were left out."""
    found: list[str] = []
    for line in lines:
        if re.search(wanted, line):
            found.append(line)
        elif found and found[-1] != DOTS and not re.match("[┏┡┗└ ]", line):
            found.append(DOTS)
    return found


def draw(scenes: list[Any]) -> str:
    """The scenes as an animated SVG."""
    shown = [(scene, scene["lines"][: ROWS - 1]) for scene in scenes]
    lengths = [TYPING_S + LINE_S * len(lines) + HOLD_S for _, lines in shown]
    total, begins, body, rules = sum(lengths), 0.0, list[str](), list[str]()
    for number, ((scene, lines), length) in enumerate(zip(shown, lengths, strict=True)):
        rows = [(f"$ {scene['command']}", 0.0), *((line, TYPING_S + LINE_S * n) for n, line in enumerate(lines))]
        for place, (text, delay) in enumerate(rows):
            name = f"s{number}l{place}"
            shows, hides = 100 * (begins + delay) / total, 100 * (begins + length) / total
            rules.append(f".{name}{{animation-name:{name}}}" + _frames(name, shows, hides))
            kind = "c" if text.startswith("$ ") else "k" if text.startswith("kill -9") else "t"
            still = "" if number == 0 else " o"
            y = BAR + MARGIN + LINE * (place + 1) - 5
            body.append(f'<text class="a {kind}{still} {name}" x="{MARGIN}" y="{y}">{escape(text[:COLUMNS])}</text>')
        name = f"h{number}"
        rules.append(
            f".{name}{{animation-name:{name}}}" + _frames(name, 100 * begins / total, 100 * (begins + length) / total)
        )
        still = "" if number == 0 else " o"
        body.append(f'<text class="a h{still} {name}" x="{MARGIN + 62}" y="22">{escape(scene["title"])}</text>')
        begins += length
    width, height = round(COLUMNS * CELL) + 2 * MARGIN, BAR + 2 * MARGIN + LINE * ROWS
    style = (
        "text{font:13px 'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace;white-space:pre;fill:#d7dde5}"
        f".a{{animation-duration:{total:.2f}s;animation-iteration-count:infinite;animation-timing-function:step-end}}"
        ".c{fill:#7ee0a1;font-weight:700}.k{fill:#ff9d8a;font-weight:700}.h{fill:#aab4c0}.o{visibility:hidden}"
        "@media (prefers-reduced-motion:reduce){.a{animation:none}}"
    )
    dots = "".join(f'<circle cx="{MARGIN + 8 + 18 * n}" cy="17" r="5" fill="#4a5563"/>' for n in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="A dry run, one decision explained, and two kills that change nothing">\n'
        f"<style>{style}{''.join(rules)}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#151a21"/>{dots}\n' + "\n".join(body) + "\n</svg>\n"
    )


def _frames(name: str, shows: float, hides: float) -> str:
    """Keyframes: hidden, then seen, then hidden again."""
    first = "" if shows < 0.005 else "0%{visibility:hidden}"
    last = "" if hides > 99.995 else f"{hides:.2f}%{{visibility:hidden}}"
    return f"@keyframes {name}{{{first}{shows:.2f}%{{visibility:visible}}{last}}}"


def main() -> None:
    """Record or draw."""
    match sys.argv[1:]:
        case ["record"]:
            record()
        case ["draw"]:
            PICTURE.write_text(draw(json.loads(RECORD.read_text())))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
