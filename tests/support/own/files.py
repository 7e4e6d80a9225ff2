"""A strategy of one's own in a file, and an installed package that offers it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from strategies import registry
from tests.support.paths import REPOSITORY

TOY = (REPOSITORY / "tests" / "support" / "toy" / "strategy.py").read_text(encoding="utf-8")
HOOKS = '''
"""Own hooks, which note that they were used."""
import gymnasium
from torch import nn

from mine_hooked import SPEC
from training.desks.own.kind import own_kind
from training.rl.coefficients import Coefficients
from training.rl.presets import Preset

USED = {"reward": 0, "network": 0, "environment": 0}


def reward(outcome):
    USED["reward"] += 1
    return outcome.equity_after - outcome.equity_before


def network(spec):
    USED["network"] += 1
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def environment(data, span):
    USED["environment"] += 1
    return gymnasium.wrappers.TransformReward(data.desk_env(span), lambda value: value / 1000.0)


PRESET = Preset("tiny", 64, Coefficients(environments=2, rollout_steps=16, batch=16, epochs=1))
KIND = own_kind(SPEC, reward=reward, network=network, environment=environment, presets={"tiny": PRESET})
'''


def write_strategy(path: Path, name: str, *, before: str = "", after: str = "") -> Path:
    """Write the toy under another name, with more code before and after it; returns the file."""
    future = "from __future__ import annotations\n"
    path.write_text(TOY.replace('"toy_keeper"', f'"{name}"').replace(future, future + before) + after, encoding="utf-8")
    return path


def install(site: Path, package: str, version: str, points: dict[str, str]) -> None:
    """Write what an installed package leaves behind: its name, its version, its entry points."""
    folder = site / f"{package.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (folder / "entry_points.txt").write_text(f"[rltrader.strategies]\n{lines}", encoding="utf-8")


@contextmanager
def forgotten_again() -> Iterator[pytest.MonkeyPatch]:
    """Leave registry, modules, path and environment as they were."""
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_own_strategies", {})
        patch.setattr(registry, "_places", {})
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv(registry.VARIABLE, "{}")
        yield patch
    for name in set(sys.modules) - modules:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if not origin.startswith((str(REPOSITORY), sys.prefix, sys.base_prefix)):
            del sys.modules[name]
