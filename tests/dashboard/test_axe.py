"""Every page keeps the rules of axe-core, wide and on a phone, light and dark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.support.browser import PHONE, WIDE, chromium, dashboard
from tests.support.dashboards import Played
from tests.support.ports import free_port
from tests.support.web_rules import violations as rules_of


def test_no_page_violates_a_rule_of_axe(replay: Played, tmp_path: Path) -> None:
    decision = replay.sql("SELECT max(decision) AS n FROM decisions WHERE outcome = 'ordered'")[0]["n"]
    violations: dict[tuple[Any, ...], list[str]] = {}
    copy = shutil.copytree(replay.path, tmp_path / "copy")  # of two desks there is a page of the fleet
    with dashboard(free_port(), replay.path, copy) as address, chromium() as browser:
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
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
                    violations[route, size, scheme] = rules_of(page)
            context.close()
    assert len(violations) > 30
    assert {where: rules for where, rules in violations.items() if rules} == {}
