"""A Ray of this machine: a start that fails is made again, and one that never comes is reported in one line."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.training.ray_processes import left, mark
from training.rl import ray_cluster

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")

FAILS_TWICE = """
import os, pathlib, sys
counted = pathlib.Path({folder!r})
count = len(list(counted.glob("start-*")))
(counted / f"start-{{count}}").touch()
if count < {failures}:
    sys.exit("Timed out waiting for file gcs_server_port")
os.execv(sys.executable, [sys.executable, "-m", "training.rl.ray_head", sys.argv[1]])
"""


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Let the first starts fail as a start on a busy machine does."""
    script = FAILS_TWICE.format(folder=str(tmp_path), failures=failures)
    monkeypatch.setattr(ray_cluster, "HEAD", (sys.executable, "-c", script))
    mark(monkeypatch, str(tmp_path))


def test_a_start_that_fails_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(tmp_path, monkeypatch, failures=2)
    with ray_cluster.connected("local", 1) as ray:
        assert ray.cluster_resources()["CPU"] == 1
    assert len(list(tmp_path.glob("start-*"))) == 3
    assert left(str(tmp_path)) == []


def test_what_a_ray_of_a_killed_program_left_goes_with_the_next_start_and_another_s_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(tmp_path, monkeypatch, failures=9)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("rlt-ray-left", "ray-another"):
        (tmp_path / name / "session").mkdir(parents=True)
        os.utime(tmp_path / name, (0, 0))
    with pytest.raises(RuntimeError, match="Ray did not start"), ray_cluster.connected("local", 1):
        raise AssertionError("it started")
    assert [place.name for place in tmp_path.iterdir() if place.is_dir()] == ["ray-another"]


def test_a_ray_that_never_starts_is_told_with_its_last_words_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(tmp_path, monkeypatch, failures=9)
    with (
        pytest.raises(
            RuntimeError,
            match=r"^Ray did not start on this machine \(Timed out .*gcs_server_port\): .*leave --ray out$",
        ),
        ray_cluster.connected("local", 1),
    ):
        raise AssertionError("it started")
    assert len(list(tmp_path.glob("start-*"))) == ray_cluster.STARTS
