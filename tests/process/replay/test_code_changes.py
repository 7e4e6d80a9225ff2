"""Another release takes a crashed desk over: real processes of a copy of this program that decides otherwise."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from daemon.engine.recover import code_digest
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    command,
    environment,
    log_of,
    read_models,
    rltraderctl,
    table,
    tape_rows,
    write_tape,
)
from tests.support.desks.live_desk import SIZE, another_release

STEPS = 900


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(3, 75))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This program, but that it never buys more than two contracts at once."""
    return another_release(tmp_path_factory.mktemp("release"), SIZE, SIZE.replace("sizing.max_contracts", "2"))


@pytest.fixture(scope="module")
def crashed(tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this code left when it was killed in mid-session."""
    path = tmp_path_factory.mktemp("crashed")
    steps_left = STEPS

    def crash(boundary: str) -> None:
        nonlocal steps_left
        steps_left -= boundary == "before step"
        if steps_left == 0:
            raise Crash

    Desk(tape).run(path, boundary=crash, group_events=1, snapshot_events=10**6)
    return path


@pytest.fixture
def state(crashed: Path, tmp_path: Path) -> Path:
    shutil.copytree(crashed, tmp_path / "state")
    return tmp_path / "state"


def program(release: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the release's program to its end."""
    return subprocess.run(
        command(module, *arguments),
        cwd=release,
        env=environment(PYTHONPATH=str(release)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def positions_at(state: Path, until_ns: int) -> Counter[str]:
    """Contracts by symbol that the journaled fills left, up to a time."""
    total: Counter[str] = Counter()
    for row in read_models(state)["fills"]:
        if row[9] <= until_ns:
            total[row[3]] += row[4] * row[5]
    return +total


def test_a_release_that_decides_otherwise_starts_halted_holding_what_was_filled(
    release: Path, state: Path, tape: Path
) -> None:
    left_at = table(state, "events")[-1]
    was_held = positions_at(state, left_at[2])
    assert was_held
    run = program(release, "daemon", "--dry-run", "--bars", tape, "--state-dir", state)
    assert run.returncode == 0, run.stderr
    (halted,) = [line for line in log_of(run.stderr) if line["event"] == "halted"]
    assert halted["reason"] == "code_changed"
    assert f"code {code_digest()} wrote the last" in halted["detail"]
    assert "differ, first row" in halted["detail"]
    rows = [row for row in table(state, "events") if row[0] > left_at[0]]
    snapshot = next(json.loads(row[4]) for row in rows if row[3] == "BrokerSnapshot")
    assert {p["symbol"]: int(p["quantity"]) for p in snapshot["positions"]} == was_held
    later = [o for row in rows for o in json.loads(row[5]) if o["type"] == "SubmitOrder"]
    assert later
    assert {order["side"] for order in later} == {-1}  # exits alone
    exits = [o for o in read_models(state)["orders"] if o[12] > left_at[2]]
    assert {order[4] for order in exits} <= set(was_held)
    assert positions_at(state, 2**62) == Counter()


def test_no_order_s_name_and_no_decision_s_number_is_used_twice(release: Path, state: Path, tape: Path) -> None:
    before = {row[0] for row in read_models(state)["decisions"]}
    rows = {row[0]: row for row in read_models(state)["decisions"]}
    assert program(release, "daemon", "--dry-run", "--bars", tape, "--state-dir", state).returncode == 0
    events = table(state, "events")
    effects = [effect for row in events if row[5].startswith("[") for effect in json.loads(row[5])]
    names = Counter(effect["client_order_id"] for effect in effects if effect["type"] == "SubmitOrder")
    assert set(names.values()) == {1}
    after = {row[0]: row for row in read_models(state)["decisions"]}
    assert all(after[number] == rows[number] for number in before)
    assert max(after) > max(before)


def test_both_releases_prove_their_own_part(release: Path, state: Path, tape: Path) -> None:
    assert program(release, "daemon", "--dry-run", "--bars", tape, "--state-dir", state).returncode == 0
    release_run = program(release, "daemon.cli.ctl", "verify", "--state-dir", state)
    current_run = rltraderctl("verify", "--state-dir", state, cwd=tape.parent)
    assert (release_run.returncode, current_run.returncode) == (0, 0), release_run.stdout + current_run.stdout
    assert "no difference found" in release_run.stdout
    assert f"written by other code ({code_digest()})" in release_run.stdout


def test_a_stopped_desk_of_another_release_takes_commands(release: Path, state: Path, tape: Path) -> None:
    result = program(release, "daemon.cli.ctl", "status", "--state-dir", state)
    assert "its next start is halted (code_changed)" in " ".join(result.stdout.split())
    halted = program(release, "daemon.cli.ctl", "halt", "--state-dir", state, "--reason", "a look")
    assert halted.returncode == 0, halted.stderr
    kinds = [row[3] for row in table(state, "events")][-3:]
    assert kinds == ["RunStarted", "CodeChanged", "HaltRequested"]
    resumed = program(release, "daemon.cli.ctl", "resume", "--state-dir", state, "--reason", "looked at it")
    assert "not halted" in resumed.stdout
    run = program(release, "daemon", "--dry-run", "--bars", tape, "--state-dir", state)
    assert run.returncode == 0, run.stderr
    assert "CodeChanged" not in [row[3] for row in table(state, "events")][-100:]
    assert program(release, "daemon.cli.ctl", "verify", "--state-dir", state).returncode == 0


@pytest.fixture(scope="module")
def libraries_of_another_host(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very same code by its digest, whose libraries give other figures: stood for by the other rule."""
    folder = tmp_path_factory.mktemp("libraries")
    shutil.copytree(release, folder, dirs_exist_ok=True)
    source = folder / "daemon" / "engine" / "recover.py"
    text = source.read_text()
    digest, versions = "    return digest.hexdigest()[:12]\n", '    return ", ".join('
    assert (text.count(digest), text.count(versions)) == (1, 1)
    text = text.replace(digest, f'    return "{code_digest()}"\n')
    source.write_text(text.replace(versions, '    return "numpy 0.1"\n    return ", ".join('))
    return folder


def test_verify_reports_other_libraries_as_what_they_are(
    libraries_of_another_host: Path, tape: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    run = program(libraries_of_another_host, "daemon", "--dry-run", "--bars", tape, "--state-dir", state)
    assert run.returncode == 0, run.stderr
    result = rltraderctl("verify", "--state-dir", state, cwd=tape.parent)
    assert result.returncode == 0, result.stdout
    assert "were written with other libraries (numpy 0.1; here numpy " in result.stdout
    assert "no difference found" in result.stdout
    release_run = program(libraries_of_another_host, "daemon.cli.ctl", "verify", "--state-dir", state)
    assert (release_run.returncode, "identical" in release_run.stdout) == (0, True)


def test_a_start_with_other_libraries_names_them(libraries_of_another_host: Path, state: Path, tape: Path) -> None:
    run = program(libraries_of_another_host, "daemon", "--dry-run", "--bars", tape, "--state-dir", state)
    assert run.returncode == 0, run.stderr
    (halted,) = [line for line in log_of(run.stderr) if line["event"] == "halted"]
    assert "the libraries changed: " in halted["detail"]
    assert "numpy 0.1 go on" in halted["detail"]
    assert program(libraries_of_another_host, "daemon.cli.ctl", "verify", "--state-dir", state).returncode == 0
