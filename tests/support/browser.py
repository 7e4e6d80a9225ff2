"""What the tests of the pages stand on: a desk that traded real minutes, the dashboard as a process, Debian's Chromium.

Expected values are read from the journal by plain SQL here, never through the dashboard's code. A page that is watched
collects every console error, failed request and request that leaves the origin.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from daemon.core.events import Event
from daemon.core.session import NEW_YORK
from daemon.core.state import State
from daemon.engine.engine import Engine, EventSource
from daemon.journal.journal import FILE
from tests.support.dashboards import end
from tests.support.desks.desk_run import Desk, bundled_rows, environment
from tests.support.paths import FIXTURE_MODELS, REPOSITORY
from tests.support.ports import free_port

CHROMIUM = Path("/usr/bin/chromium")
SESSIONS = 5  # the first for the indicators, two more for the volatility, two that trade
WIDE, PHONE = (1280, 900), (390, 844)
LIMIT_MS = 180_000  # generous: nothing here is measured
expect.set_options(timeout=LIMIT_MS)


# --- a desk and its journal ----------------------------------------------------------------------------------------


def real_rows(folder: Path) -> list[str]:
    """The tape's rows of the first sessions of SPY's minutes of 2024."""
    columns = ("timestamp", "open", "high", "low", "close", "volume")
    bars = pq.read_table(folder / "spy_1min_2024.parquet", columns=list(columns)).slice(0, SESSIONS * 390)
    times = bars["timestamp"].cast("int64").to_pylist()
    prices = [bars[name].to_pylist() for name in columns[1:]]
    return [f"SPY,{','.join(map(str, row))}" for row in zip(times, *prices, strict=True)]


def synthetic_rows() -> list[str]:
    """As many sessions of the bundled synthetic tape."""
    return [row for day in list(bundled_rows().values())[:SESSIONS] for row in day]


class Stopped:
    """The tape up to the moment that `when` names: as if the desk had been stopped there, amid a session."""

    def __init__(self, tape: EventSource, when: Callable[[], bool]) -> None:
        self._tape = tape
        self._when = when

    def poll(self) -> Event | None:
        """The tape's next event, until the moment came."""
        return None if self._when() else self._tape.poll()

    async def next(self) -> Event | None:
        """The same: a tape has its events already."""
        return self.poll()


def trade(desk: Desk, state_dir: Path, until_holding_on: str = "") -> None:
    """Play the tape, from where it ended; given a date only until something is held in that session's second half.

    In a thread of its own: Playwright's driver has the event loop of the thread that uses it.
    """
    engines: list[Engine] = []

    def holding() -> bool:
        state: State[Any] = engines[0].machine.state
        today = state.session.session is not None and state.session.session.date == until_holding_on
        return today and len(state.strategy.bars) > 195 and bool(state.book.positions)

    source = (lambda tape: Stopped(tape, holding)) if until_holding_on else None
    with ThreadPoolExecutor(1) as thread:
        recorded = thread.submit(desk.run, state_dir, source=source, engine_made=engines.append).result()
    if recorded.failure is not None:
        raise recorded.failure


class JournalRows:
    """A journal, read by plain SQL. Rows come as dictionaries."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """All rows of a query."""
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def row(self, sql: str, *values: Any) -> dict[str, Any]:
        """The first row of a query that has one."""
        return self.rows(sql, *values)[0]


# --- the dashboard --------------------------------------------------------------------------------------------------


@contextmanager
def dashboard(
    port: int,
    *state_dirs: Path,
    models_dir: Path = FIXTURE_MODELS,
    gateways: Sequence[Path] = (),
    runs: Sequence[Path] = (),
) -> Iterator[str]:
    """The dashboard as a process of its own, until the block ends; yields its address when it answers."""
    desks = [part for state_dir in state_dirs for part in ("--state-dir", str(state_dir))]
    arguments = [
        sys.executable,
        "-m",
        "daemon.dashboard",
        *desks,
        *(part for folder in gateways for part in ("--gateway", str(folder))),
        *(part for folder in runs for part in ("--runs-dir", str(folder))),
        "--models-dir",
        str(models_dir),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        arguments, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(
                    f"the dashboard ended with {process.returncode}: {process.stderr and process.stderr.read()}"
                )
            try:
                now = json.load(urllib.request.urlopen(f"{address}/api/now", timeout=120))
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
                continue
            if now["decision"]:
                break
            time.sleep(0.1)
        yield address
    finally:
        end(process)


# --- the browser ----------------------------------------------------------------------------------------------------


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window; skips where it is missing."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM} (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page whose troubles are collected: console errors, exceptions, failed requests, requests to anywhere else."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.troubles: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", self._failed)
        page.on("response", self._response)

    def open(self, route: str, ready: str = "main h1") -> Page:
        """Go to a route such as `now` and wait until `ready` is there and no card waits for its first answer."""
        self.page.goto(f"{self.address}/#/{route}")
        self.page.wait_for_selector(ready)
        return self.page

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return width

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.address + "/", "data:")):
            self.troubles.append(f"left the origin: {request.url}")

    def _failed(self, request: Request) -> None:
        if not (request.failure == "net::ERR_ABORTED" and "/api/" in request.url):  # a page that closes stops asking
            self.troubles.append(f"failed: {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.status}: {response.url}")


CONTRAST = """() => {
  const parse = (text) => (text.match(/[0-9.]+/g) ?? []).map(Number);
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    const text = walk.currentNode.data.trim();
    if (!text || !node.checkVisibility() || node.closest(".hidden, .chart, :disabled")) continue;
    const [a, b] = [luminance(parse(getComputedStyle(node).color)), luminance(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.tagName} ${node.className}: ${text.slice(0, 40)}`);
  }
  return poor;
}"""
"""The texts whose contrast to what is behind them is below 4.5 (WCAG 2.2, 1.4.3, with its relative luminance)."""

SMALL = """() => [...document.querySelectorAll("a, button, select, summary, label:has(input)")]
  .filter((node) => node.checkVisibility() && !node.closest(".skip, footer"))
  .map((node) => [node, node.getBoundingClientRect()])
  .filter(([, box]) => box.height < 39.9 || box.width < 39.9)
  .map(([node, box]) => `${node.tagName} ${node.textContent.slice(0, 30)} ${box.width}x${box.height}`)"""
"""What can be touched and is less than 40 pixels wide or high."""


def first_paint_ms(browser: Browser, address: str) -> float:
    """When the browser first painted anything of the first page, in milliseconds since it asked, cold."""
    page = browser.new_page()
    page.goto(f"{address}/#/now")
    page.wait_for_selector("#answer [data-action]")
    entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    painted: float = page.evaluate(entry)
    page.close()
    return painted


def picture(page: Page, name: str, folder: Path) -> Path:
    """A screenshot of the whole page in the folder that RLTRADER_SCREENSHOTS names, else in `folder`."""
    place = Path(os.environ.get("RLTRADER_SCREENSHOTS", folder))
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path


def new_york(time_ns: int) -> datetime:
    """A time of the journal in New York."""
    return datetime.fromtimestamp(time_ns / 10**9, UTC).astimezone(NEW_YORK)


def main() -> int:
    """`python -m tests.support.browser STATE_DIR`: the first paint of five cold visits, as JSON."""
    with dashboard(free_port(), Path(sys.argv[1])) as address, chromium() as browser:
        painted = sorted(first_paint_ms(browser, address) for _ in range(5))
    sys.stdout.write(json.dumps({"first_contentful_paint_ms": [round(value) for value in painted]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
