"""The units hold what docs/TRADING_HOST.md promises: systemd's own tools accept them, and the sandbox lets ONNX run.

`make check-units` installs what is missing here and runs this file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from daemon.config.load import EXIT_CODE
from daemon.host.account_lock import SHARED
from tests.support.desks.desk_run import environment, rltraderctl, rltraderd, tape_rows, write_tape
from tests.support.paths import REPOSITORY

SYSTEMD = REPOSITORY / "systemd"
DAEMON, DESK, PANIC = "rltraderd.service", "rltraderd@.service", "rltrader-panic@.service"
UNITS = (DAEMON, DESK, PANIC)
TARGET = "rltrader-desks.target"
HEADS, DESK_HEADS = "rltrader-heads.service", "rltrader-heads@.service"
TIMERS = ("rltrader-heads.timer", "rltrader-heads@.timer")
REDIS, PUBLISHER, TRAINER = "rltrader-redis.service", "rltrader-publisher.service", "rltrader-trainer.service"
GATEWAY, GUARD = "rltrader-gateway.service", "rltrader-guard.service"
NOTIFY, PHONE = ("rltrader-notify.service", "rltrader-notify@.service"), "rltrader-phone.service"
LEARNING = (REDIS, PUBLISHER, TRAINER)
EXPOSURE_MAX = "--threshold=15"  # tenths: 1.5 of 10

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: make check-units installs it"
)


def settings(unit: str) -> list[tuple[str, str]]:
    """(key, value) of every line of a unit, in order."""
    lines = (line for line in (SYSTEMD / unit).read_text().splitlines() if line and line[0] not in "#[")
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def value(unit: str, key: str) -> str:
    (text,) = (value for name, value in settings(unit) if name == key)
    return text


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match is not None, text
    return int(match[1])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units beside programs that exist, with the panic unit switched on."""
    folders = {"rltrader-trainer": "trainer", "redis-server": "of-debian"}
    services = ("publisher", "notify", "gateway", "guard")
    for name in ("rltraderd", "rltraderctl", *(f"rltrader-{service}" for service in services), *folders):
        program = tmp_path / folders.get(name, "current") / "venv" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    units = tmp_path / "units"
    units.mkdir()
    for name in (*UNITS, TARGET, HEADS, DESK_HEADS, *TIMERS, *LEARNING, *NOTIFY, PHONE, GATEWAY, GUARD):
        text = (SYSTEMD / name).read_text().replace("/opt/rltrader", str(tmp_path))
        text = text.replace("/usr/bin/redis-server", str(tmp_path / "of-debian" / "venv" / "bin" / "redis-server"))
        (units / name).write_text(text.replace("#OnFailure=", "OnFailure="))
    return units


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=300
    )


@needs_systemd
@pytest.mark.parametrize(
    "unit", [*UNITS, TARGET, HEADS, DESK_HEADS, *TIMERS, *LEARNING, *NOTIFY, PHONE, GATEWAY, GUARD]
)
def test_systemd_accepts_the_unit_without_a_word(installed: Path, unit: str) -> None:
    result = analyze("verify", "--man=no", str(installed / unit))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, HEADS, DESK_HEADS, *LEARNING, *NOTIFY, PHONE, GATEWAY, GUARD])
def test_the_unit_is_exposed_by_no_more_than_its_work_needs(installed: Path, unit: str) -> None:
    text = (installed / unit).read_text()
    assert analyze("security", "--offline=true", EXPOSURE_MAX, str(installed / unit)).returncode == 0
    bare = installed / f"bare-{unit}"
    bare.write_text(text[: text.index("NoNewPrivileges=yes")])
    assert analyze("security", "--offline=true", EXPOSURE_MAX, str(bare)).returncode != 0  # the sandbox does it


@needs_systemd
@pytest.mark.parametrize("drop_in", ["gpu.conf", "guard.conf", "mqtt.conf", "online.conf", "signed.conf"])
def test_systemd_accepts_the_unit_with_a_drop_in(installed: Path, drop_in: str) -> None:
    (installed / f"{DAEMON}.d").mkdir()
    shutil.copy(SYSTEMD / drop_in, installed / f"{DAEMON}.d")
    result = analyze("verify", "--man=no", str(installed / DAEMON))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", [DAEMON, DESK])
def test_a_daemon_is_started_again_for_ever_unless_the_operator_erred(unit: str) -> None:
    assert (value(unit, "Restart"), value(unit, "StartLimitIntervalSec")) == ("always", "0")
    assert value(unit, "RestartPreventExitStatus").split() == [str(EXIT_CODE), "CREDENTIALS"]
    assert (value(unit, "Type"), value(unit, "NotifyAccess"), value(unit, "WatchdogSec")) == ("notify", "main", "60")


@pytest.mark.parametrize("unit", [DAEMON, DESK])
def test_systemd_waits_longer_for_the_stop_than_the_daemon_s_own_deadline(unit: str) -> None:
    deadline_s = tomllib.loads((REPOSITORY / "config.toml").read_text()).get("service", {}).get("stop_deadline_s", 30)
    assert seconds(value(unit, "TimeoutStopSec")) >= 2 * deadline_s


@pytest.mark.parametrize("unit", [DAEMON, DESK, GATEWAY])
def test_whoever_locks_an_account_can_write_to_the_one_folder_of_locks(unit: str) -> None:
    """Everything else below /run is read-only there (ProtectSystem=strict)."""
    assert value(unit, "ProtectSystem") == "strict"
    folder = {key: text for key, text in settings(unit) if key.startswith("RuntimeDirectory")}
    expected = {"RuntimeDirectory": SHARED.name, "RuntimeDirectoryMode": "0750", "RuntimeDirectoryPreserve": "yes"}
    assert (folder, SHARED.parent) == (expected, Path("/run"))


@pytest.mark.parametrize("unit", [DAEMON, DESK, GATEWAY, GUARD, TRAINER])
def test_what_judges_by_the_host_s_clock_waits_until_it_is_right(unit: str) -> None:
    for key in ("Wants", "After"):
        assert "time-sync.target" in value(unit, key).split()


@pytest.mark.parametrize("unit", [DAEMON, DESK])
def test_a_desk_stops_before_the_gateway_through_which_it_ends_its_orders(unit: str) -> None:
    assert GATEWAY in value(unit, "After").split()


@pytest.mark.parametrize("unit", UNITS)
def test_keys_come_as_credentials_and_leave_no_core_file(unit: str) -> None:
    loaded = dict(value.split(":") for key, value in settings(unit) if key == "LoadCredential")
    assert loaded.keys() == {"APCA_API_KEY_ID", "APCA_API_SECRET_KEY"}
    assert all(path.startswith("/etc/rltrader/credentials/") for path in loaded.values())
    assert not [value for key, value in settings(unit) if key.startswith("Environment") and "APCA" in value]
    assert value(unit, "LimitCORE") == "0"


def test_a_desk_s_unit_differs_from_the_single_one_in_its_paths_alone() -> None:
    def unnamed(unit: str) -> list[tuple[str, str]]:
        single = [(key, text.replace("/config.toml", "/%i.toml")) for key, text in settings(unit)]
        return [(key, text.replace("/%i", "").replace(", desk %i", "")) for key, text in single]

    belongs = ("PartOf", TARGET)
    assert [setting for setting in unnamed(DESK) if setting != belongs] == unnamed(DAEMON)
    assert belongs in settings(DESK)


def test_the_units_that_send_messages_differ_in_their_paths_alone() -> None:
    single, of_desk = map(settings, NOTIFY)
    assert [(key, text.replace("/%i", "").replace(" of desk %i", "")) for key, text in of_desk] == single


def test_the_units_that_sign_heads_differ_in_their_paths_alone() -> None:
    def unnamed(unit: str) -> list[tuple[str, str]]:
        single = [(key, text.replace("heads/desk", "heads/%i")) for key, text in settings(unit)]
        return [(key, text.replace("/%i", "").replace(", desk %i", "")) for key, text in single]

    assert unnamed(DESK_HEADS) == unnamed(HEADS)
    assert unnamed(TIMERS[1]) == unnamed(TIMERS[0])
    assert [timer.removesuffix("timer") for timer in TIMERS] == [
        unit.removesuffix("service") for unit in (HEADS, DESK_HEADS)
    ]


def test_what_the_unit_runs_signs_the_newest_head_and_verify_takes_it(tmp_path: Path) -> None:
    run = rltraderd(
        "--dry-run",
        "--bars",
        write_tape(tmp_path / "t.csv", tape_rows(1, 20, 1)),
        "--state-dir",
        tmp_path / "s",
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    public = rltraderctl("models", "keygen", tmp_path / "heads.pem", cwd=tmp_path)
    (tmp_path / "heads.pub").write_text(public.stdout)
    (tmp_path / "log").mkdir(mode=0o755)
    places = {
        "/opt/rltrader/current/venv/bin/rltraderctl": f"{sys.executable} -m daemon.cli.ctl",
        "/var/lib/rltrader": str(tmp_path / "s"),
        "/etc/rltrader": str(tmp_path),
        "/var/log/rltrader-heads": str(tmp_path / "log"),
    }
    line = shlex.split(value(HEADS, "ExecStart"))
    for place, here in places.items():
        line[-1] = line[-1].replace(place, here)
    for _ in range(2):
        unit_run = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=120)
        assert unit_run.returncode == 0, unit_run.stderr
    signed = tmp_path / "log" / "desk"
    result = rltraderctl(
        "verify",
        "--state-dir",
        tmp_path / "s",
        "--against",
        signed,
        "--public-key",
        tmp_path / "heads.pub",
        cwd=tmp_path,
    )
    assert (result.returncode, "published heads: 2 agree" in result.stdout) == (0, True), result.stdout + result.stderr
    (tmp_path / "s" / "journal.sqlite").unlink()
    unit_run = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert (unit_run.returncode, len(signed.read_text().splitlines())) == (EXIT_CODE, 2)  # the unit fails, and says so


def test_the_panic_unit_lives_in_the_daemon_s_sandbox() -> None:
    def sandbox(unit: str) -> list[tuple[str, str]]:
        every = settings(unit)
        return every[every.index(("NoNewPrivileges", "yes")) : every.index(("SystemCallErrorNumber", "EPERM")) + 1]

    assert sandbox(PANIC) == sandbox(DAEMON)


@pytest.mark.parametrize(("instance", "unit"), [("config", DAEMON), ("scalper-1", DESK)])
def test_the_panic_unit_tells_the_desk_in_the_folder_where_its_daemon_s_unit_keeps_it(
    instance: str, unit: str, tmp_path: Path
) -> None:
    told = tmp_path / "rltraderctl"
    told.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    told.chmod(0o755)
    line = value(PANIC, "ExecStart").replace("%i", instance).replace("$$", "$")
    words = shlex.split(line.replace("/opt/rltrader/current/venv/bin/rltraderctl", str(told)))
    options = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    daemon = shlex.split(value(unit, "ExecStart").replace("%i", instance))
    for option in ("--config", "--state-dir"):
        assert options[options.index(option) + 1] == daemon[daemon.index(option) + 1]
    assert options[:2] == ["panic", "--yes"]


UNDER_THE_RULE = """
import ctypes, errno, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute=yes forbids
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    pass
else:
    sys.exit("the rule does not hold")
import numpy, onnxruntime, talib, uvloop
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shapes = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
feed = {name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}
assert numpy.isfinite(session.run(None, feed)[0]).all()
assert numpy.isfinite(talib.RSI(numpy.arange(40.0), 14)[-1])
async def nothing(): pass
uvloop.run(nothing())
"""


def under_the_rule(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    model = REPOSITORY / "tests/fixture_policy/onnx_models/option_scalper/fixture/policy.onnx"
    return subprocess.run(
        [sys.executable, "-c", UNDER_THE_RULE, str(model)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_model_runs_where_no_memory_may_become_executable() -> None:
    result = under_the_rule({})
    if result.returncode == 77:
        pytest.skip("needs Linux 6.3 or newer, which can refuse executable memory to one process")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("unit", [DAEMON, DESK])
def test_onnxruntime_keeps_no_usage_data_below_the_state_directory(unit: str, tmp_path: Path) -> None:
    variables = dict(value.split("=") for key, value in settings(unit) if key == "Environment")
    under_the_rule({"HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"} | variables)  # the unit's own word counts
    assert list(tmp_path.rglob("*")) == []


def test_make_install_copies_and_starts_nothing() -> None:
    result = subprocess.run(
        ["make", "--dry-run", "install", "DESTDIR=/nowhere"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "/nowhere/usr/local/lib/systemd/system" in result.stdout
    assert not re.search(r"systemctl +(start|enable|restart)", result.stdout)


def test_make_install_puts_releases_side_by_side_and_the_units_run_the_current_one() -> None:
    output = subprocess.run(
        ["make", "--dry-run", "install", "DESTDIR=/nowhere"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    (release,) = set(re.findall(r"/nowhere/opt/rltrader/releases/([0-9a-f]{12})\b", output))
    assert f"ln -sfn releases/{release} /nowhere/opt/rltrader/.next; mv -T" in output
    assert "/nowhere/opt/rltrader/former" in output
    assert "/nowhere/opt/rltrader/venv" not in output  # nothing is written over that a running daemon uses
    for unit in UNITS:
        assert "/opt/rltrader/current/venv/bin/" in value(unit, "ExecStart"), unit
    assert "systemd/*.timer" in output


@pytest.mark.parametrize("target", ["install", "install-trainer"])
def test_what_root_installs_is_readable_for_the_daemon_s_user_whatever_root_s_umask(target: str) -> None:
    dry_run = ["make", "--dry-run", target, "DESTDIR=/nowhere", "PREFIX=/srv/rltrader"]
    output = subprocess.run(dry_run, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300).stdout
    lines = output.replace("\\\n", " ").splitlines()
    writers = [line for line in lines if re.search(r"-m venv|\bcp -|reference --into", line) and "/nowhere" in line]
    assert len(writers) == 3 + (target == "install-trainer")
    assert [line for line in writers if not line.startswith("umask 022;")] == []
    assert all("--no-preserve=mode" in line for line in writers if "cp -" in line)  # of a checkout's files
    copied = [line for line in lines if "systemd/*.conf" in line]
    assert copied
    assert all("s|/opt/rltrader|/srv/rltrader|g" in line for line in copied)  # a drop-in names programs too


def test_the_manuals_name_only_files_that_are_there_and_every_drop_in() -> None:
    manual = "".join((REPOSITORY / "docs" / name).read_text() for name in ("TRADING_HOST.md", "JOURNAL.md"))
    paths = set(re.findall(r"/opt/rltrader/((?:systemd|docs)/[\w.@-]+)", manual))
    assert {name for name in paths if not (REPOSITORY / name).is_file()} == set()
    assert {f"systemd/{path.name}" for path in SYSTEMD.glob("*.conf")} <= paths
    assert set(re.findall(r"\b(rltrader[\w-]*)@[\w%-]+", manual)) == {"rltraderd", "rltrader-panic", "rltrader-heads"}
