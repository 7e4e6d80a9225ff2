"""The page of runs: what it lists, the progress of a running one, runs over each other; and that it only reads."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from daemon.dashboard.pages.runs import POINTS_MOST, RunShelf, thinned_course
from daemon.library.compare import compare, comparison_page
from daemon.library.library import chosen_run, library_of
from daemon.library.listed import Course
from daemon.library.run_files import Progress, write_progress
from tests.support.browser import CONTRAST, PHONE, SMALL, Watched, chromium, dashboard, picture
from tests.support.dashboards import Played, Served, serving
from tests.support.library_runs import dry_run, training
from tests.support.ports import free_port
from tests.support.web_rules import violations

WIDEST = (1440, 900)


@pytest.fixture(scope="module")
def runs(replay: Played, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dry run, two trainings that ended and one that runs, one that cannot be read, and a desk's journal."""
    folder = tmp_path_factory.mktemp("runs")
    dry_run(replay.path, folder / "dry")
    dry_run(replay.path, folder / "desk", "live")
    training(folder / "one")
    training(folder / "two", steps=2000, compounds=False)
    running = training(folder / "begun", report=False)
    write_progress(running, Progress(stage="trials", done=250, total=1000, unit="steps", process=os.getpid()))
    training(folder / "damaged")
    (folder / "damaged" / "run.json").write_text("{")
    with (running / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="module")
def listing(replay: Played, runs: Path) -> Iterator[Served]:
    with serving(replay.path, runs=[runs]) as dashboard:
        yield dashboard


def test_the_runs_are_listed_without_their_places_and_without_desks(listing: Served, runs: Path) -> None:
    body = listing.ask("/api/runs")[2]
    assert str(runs / "one").encode() not in body
    by_id = {run["id"]: run for run in json.loads(body)["runs"]}
    assert {name: run["state"] for name, run in by_id.items()} == {
        "begun": "running", "damaged": "unreadable", "dry": "finished", "one": "finished", "two": "finished",
    }  # fmt: skip
    assert by_id["begun"]["progress"]["done"] == 250
    assert by_id["one"]["figures"]["share"] == -0.007


def test_runs_are_compared_by_their_names_alone(listing: Served, runs: Path) -> None:
    comparison = listing.json("/api/runs/compare?id=one&id=two")
    assert comparison["differences"] == [["steps", "1000", "2000"]]
    assert comparison["courses"][1]["shares"][-1] == pytest.approx(-0.007)
    for query, problem in (
        ("id=one", "1 runs: expected 2 to 5"),
        ("", "0 runs: expected 2 to 5"),
        ("id=one&id=one", "named twice"),
        ("id=one&id=nothing", "no run is called"),
        ("id=one&id=desk", "no run is called"),
        (f"id=one&id={quote(str(runs / 'two'))}", "no run is called"),
        ("id=one&id=..%2F..%2Fetc", "no run is called"),
        ("id=one&id=%00", "no run is called"),
        ("id=one&id=damaged", "damaged cannot be read"),
    ):
        status, _, body = listing.ask(f"/api/runs/compare?{query}")
        assert (status, problem in json.loads(body)["error"]) == (400, True), query


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_started_or_changed_here(listing: Served, runs: Path, method: str) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in runs.rglob("*") if path.is_file())
    for path in ("/api/runs", "/api/runs/compare?id=one&id=two", "/api/runs/start"):
        assert listing.ask(path, method)[0] == 405
    listing.json("/api/runs/compare?id=dry&id=two")
    assert sorted((str(path), path.stat().st_mtime_ns) for path in runs.rglob("*") if path.is_file()) == before


def test_what_changes_on_the_disk_is_seen_at_the_next_look(tmp_path: Path) -> None:
    shelf = RunShelf([tmp_path])
    training(tmp_path / "one")
    training(tmp_path / "deep" / "one", report=False)
    assert [(run.id, run.state) for run in shelf.runs().runs] == [
        ("deep/one", "stopped"),
        (f"{tmp_path.name}/one", "finished"),
    ]
    shutil.copy(tmp_path / "one" / "report.json", tmp_path / "deep" / "one" / "report.json")
    (tmp_path / "one" / "tags.json").write_text('["kept"]')
    assert [(run.state, run.tags) for run in shelf.runs().runs] == [("finished", ()), ("finished", ("kept",))]
    shutil.rmtree(tmp_path / "deep")
    assert [run.id for run in shelf.runs().runs] == ["one"]


def test_a_long_course_keeps_its_ends_and_its_deepest_fall() -> None:
    times = tuple(map(float, range(5000)))
    falls = tuple(0.5 if place == 1234 else 0.1 for place in range(5000))
    thin = thinned_course(Course(times, times, falls))
    assert (thin.times[0], thin.times[-1], max(thin.falls)) == (0.0, 4999.0, 0.5)
    assert POINTS_MOST - 1 <= len(thin.times) <= POINTS_MOST
    short = Course((1.0,), (2.0,), (0.0,))
    assert thinned_course(short) is short


def test_the_page_shows_the_list_the_progress_and_runs_over_each_other(
    replay: Played, runs: Path, tmp_path: Path
) -> None:
    with dashboard(free_port(), replay.path, runs=[runs]) as address, chromium() as browser:
        for size in (WIDEST, PHONE):
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": size[0], "height": size[1]},
                    color_scheme="light" if scheme == "light" else "dark",
                    reduced_motion="reduce",
                    bypass_csp=True,
                )
                tab = Watched(context.new_page(), address)
                page = tab.open("runs", "#runs [data-run]")
                expect(page.locator('[data-run="begun"]')).to_contain_text("trials: 250 of 1,000 steps")
                assert page.locator('[data-run="begun"] progress').get_attribute("value") == "0.25"
                expect(page.locator('[data-run="damaged"]')).to_contain_text("run.json")
                assert page.locator('[data-run="damaged"] input').is_disabled()
                for name in ("one", "two", "dry"):
                    page.get_by_label(f"Compare {name}", exact=True).check()
                expect(page.locator("#compared table[role=table]")).to_have_count(2)
                expect(page.locator("#compared .chart").first).to_have_attribute("data-points", "4")
                assert "run=one&run=two&run=dry" in page.url
                expect(page.locator("#compared")).to_contain_text("The runs are over different sessions")
                assert violations(page) == []
                assert page.evaluate(CONTRAST) == []
                assert tab.overflow() <= 0
                if size == PHONE:
                    assert page.evaluate(SMALL) == []
                picture(page, f"runs-{size[0]}-{scheme}", tmp_path)
                page.reload()
                expect(page.locator("#compared table[role=table]")).to_have_count(2)
                page.get_by_label("Strategy").select_option("option_scalper")
                expect(page.locator("#runs [data-run]")).to_have_count(1)
                assert [trouble for trouble in tab.troubles if "icon.svg" not in trouble] == []
                context.close()


def test_the_page_that_compare_writes_keeps_the_rules_of_axe_too(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    library = library_of([runs])
    page.write_text(comparison_page(compare([chosen_run(library, name) for name in ("dry", "one", "two")])))
    with chromium() as browser:
        for size in (WIDEST, PHONE):
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": size[0], "height": size[1]},
                    color_scheme="light" if scheme == "light" else "dark",
                    bypass_csp=True,
                )
                browser_page = context.new_page()
                browser_page.goto(page.as_uri())
                assert violations(browser_page) == []
                assert browser_page.evaluate(CONTRAST) == []
                assert browser_page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
                context.close()
