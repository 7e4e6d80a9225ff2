"""axe-core's rules on a page."""

from __future__ import annotations

from importlib.resources import files

from playwright.sync_api import Page

AXE = files("axe_playwright_python") / "axe.min.js"
RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
  (found) => `${found.id}: ${found.nodes.map((node) => node.target.join(" ")).join(", ")}`)"""


def violations(page: Page) -> list[str]:
    """Each rule that the page violates, with where; its context was opened with `bypass_csp`."""
    page.evaluate(AXE.read_text())
    found: list[str] = page.evaluate(RUN)
    return found
