"""When a cold browser first paints the dashboard, beside a bare page of the same server, and what it asks for. JSON.

    .venv/bin/python -m bench.pages.paint [--visits 9] [--state-dir DIR]

The bare page is a short answer of the API, shown as text. Both are visited in turns, each in a new context; medians, in
milliseconds since the browser asked. `money_ms`: until the equity stands there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from bench.bench_dashboard import REPOSITORY, play
from tests.support.browser import chromium, dashboard
from tests.support.ports import free_port

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
MONEY = '#money [data-figure="Equity"]'


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=9)
    parser.add_argument("--state-dir", type=Path, help="a journal of your own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state_dir = options.state_dir or play(Path(folder) / "desk")
        store = REPOSITORY / "onnx_models"
        with dashboard(free_port(), state_dir, models_dir=store) as address, chromium() as browser:
            bare, first = [], []
            for _ in range(options.visits):
                bare.append(visit(browser, f"{address}/api/desks", "pre"))
                first.append(visit(browser, f"{address}/#/now", MONEY))
    paints = [statistics.median(visit["painted_ms"] for visit in visits) for visits in (bare, first)]
    figures = {
        "visits": options.visits,
        "bare_paint_ms": round(paints[0]),
        "first_paint_ms": round(paints[1]),
        "times_the_bare_page": round(paints[1] / paints[0], 2),
        "money_ms": round(statistics.median(visit["ready_ms"] for visit in first)),
        "requests": max(visit["requests"] for visit in first),
    }
    print(json.dumps(figures, indent=1))
    return 0


def visit(browser: Browser, address: str, ready: str) -> dict[str, Any]:
    """Open a page in a context of its own, without anything in its cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector(ready)
    ready_ms = page.evaluate("performance.now()")
    painted_ms = page.evaluate(PAINTED)
    while painted_ms is None:
        page.wait_for_timeout(20)
        painted_ms = page.evaluate(PAINTED)
    page.wait_for_timeout(1500)  # what it asks for after that counts, too
    context.close()
    return {"painted_ms": painted_ms, "ready_ms": ready_ms, "requests": len(requests)}


if __name__ == "__main__":
    sys.exit(main())
