"""`python -m tests.fixture_policy`: export the timetable policy through the same path as a trained one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strategies.kit.manifest import Training
from strategies.option_scalper import SPEC
from strategies.registry import strategy
from tests.fixture_policy.timetable import ELAPSED, Timetable
from training.export.export import Release, export
from training.rl.ppo import make_deterministic

STORE = Path(__file__).parent / "onnx_models"
VERSION = "fixture"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the fixture into `--out` (the committed store by default) and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.fixture_policy", description=__doc__)
    parser.add_argument("--out", type=Path, default=STORE, help="model store (%(default)s)")
    chosen = parser.parse_args(arguments)
    make_deterministic()
    release = Release(
        training=Training(
            file="none",
            file_sha256="",
            feed="sip",
            synthetic=True,
            sessions=0,
            first_session="",
            last_session="",
            splits={},
        ),
        hyperparameters={},
        metrics={},
        version=VERSION,
        note="a fixture of the tests: every action by the clock",
    )
    probes = np.random.default_rng(0).normal(size=(1000, *SPEC.observation_shape)).astype(np.float32)
    probes[:, -1, ELAPSED] = np.arange(1, 1001, dtype=np.float32) / 1000
    folder = export(Timetable(), strategy(SPEC.name), release, out=chosen.out, probes=probes)
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
