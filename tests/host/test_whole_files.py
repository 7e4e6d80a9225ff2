"""Files appear whole; what a killed writer left does not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.host.whole_files import write_whole
from tests.support.outside.stream import until

OLD_S = 3600.0
WRITER = """
import os, signal, sys
from pathlib import Path
from daemon.host import whole_files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGSTOP)  # in the middle: the part is there, and no rename yet
whole_files.write_whole(Path(sys.argv[1]), b"theirs")
"""


@pytest.fixture
def writing(tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that stands still in the middle of a write, and its part, an hour old."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "trainer.pt")])
    part = tmp_path / f".trainer.pt.{process.pid}.part"
    until(stands(process))
    written_s = part.stat().st_mtime - OLD_S
    os.utime(part, (written_s, written_s))
    return process, part


def stands(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    return lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T"


def test_the_part_of_a_killed_writer_goes_with_the_next_write(
    tmp_path: Path, writing: tuple[subprocess.Popen[bytes], Path]
) -> None:
    process, _ = writing
    process.kill()
    process.wait()
    write_whole(tmp_path / "trainer.pt", b"ours")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"trainer.pt": b"ours"}


def test_the_part_of_a_living_writer_stays_however_old_it_is(
    tmp_path: Path, writing: tuple[subprocess.Popen[bytes], Path]
) -> None:
    process, part = writing
    write_whole(tmp_path / "trainer.pt", b"ours")
    assert part.exists()
    process.send_signal(signal.SIGCONT)
    until(lambda: (tmp_path / "trainer.pt").read_bytes() == b"theirs")
    process.kill()
    process.wait()


def test_a_link_and_a_folder_with_a_part_s_name_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".file.1.part").symlink_to(tmp_path / "mine")
    (tmp_path / ".file.2.part").mkdir()
    os.utime(tmp_path / "mine", (0, 0))
    write_whole(tmp_path / "file", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.1.part", ".file.2.part", "file", "mine"]
