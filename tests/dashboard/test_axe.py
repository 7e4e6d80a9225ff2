"""Every page keeps the rules of axe-core, wide and on a phone, light and dark."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tests.support.browser import PHONE, WIDE, chromium, dashboard, free_port
from tests.support.dashboards import Played

AXE = files("axe_playwright_python") / "axe.min.js"
RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
  (found) => `${found.id}: ${found.nodes.map((node) => node.target.join(" ")).join(", ")}`)"""


def test_no_page_violates_a_rule_of_axe(played: Played) -> None:
    decision = played.sql("SELECT max(decision) AS n FROM decisions WHERE outcome = 'ordered'")[0]["n"]
    violations: dict[tuple[Any, ...], list[str]] = {}
    with dashboard(free_port(), played.path, played.path) as address, chromium() as browser:
        for size in (WIDE, PHONE):
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", bypass_csp=True
            )
            page = context.new_page()
            page.goto(f"{address}/#/now")
            page.wait_for_selector("nav a")
            routes = page.locator("nav a").evaluate_all("all => all.map(n => n.dataset.page)")
            assert len(routes) > 8
            for route in (*routes, f"decision/{decision}"):
                page.goto(f"{address}/#/{route}")
                page.wait_for_selector("main .card .body > *", state="attached")  # hidden where nothing is learned
                page.evaluate(AXE.read_text())
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
                    violations[route, size, scheme] = page.evaluate(RUN)
            context.close()
    assert len(violations) > 30
    assert {where: rules for where, rules in violations.items() if rules} == {}
