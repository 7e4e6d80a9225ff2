"""Folds of a run: its folder belongs to its rule; several validation starts; a last training on all sessions."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest

from strategies.kit.manifest import decode
from tests.support.training.small_runs import UPDATE, quiet, same, weights
from training.desks.ppo import later_starts, mean_growth
from training.runs.folder import RunFolderError, open_run
from training.runs.run import train_and_export
from training.runs.settings import Settings

pytestmark = pytest.mark.usefixtures("one_export")


def test_a_refit_exports_weights_of_all_sessions_and_says_what_was_not_tested(small: Settings, tmp_path: Path) -> None:
    settings = replace(small, out=tmp_path / "store", run_folder=tmp_path / "run", steps=2 * UPDATE, refit=True)
    result = train_and_export(settings, quiet)
    manifest = decode((result.version / "manifest.json").read_bytes())
    assert manifest.training.splits == {"train": ("2024-06-20", "2024-06-27")}
    assert manifest.training.last_session == "2024-06-27"
    assert "No session tests these weights: the tests (2024-06-26 to 2024-06-27)" in manifest.note
    assert any("No session tests these weights" in sentence for sentence in result.findings.abstract)
    refit = weights(tmp_path / "run", "trials/refit-potential-seed2")
    assert not same(refit, weights(tmp_path / "run"))
    stamp = (tmp_path / "run/trials/refit-potential-seed2/best.pt").stat().st_mtime_ns
    assert train_and_export(settings, quiet).version == result.version
    assert (tmp_path / "run/trials/refit-potential-seed2/best.pt").stat().st_mtime_ns == stamp  # resumed: not again


def test_a_run_of_another_rule_of_folds_is_refused_by_name(small: Settings, tmp_path: Path) -> None:
    identity = small.identity("00" * 32)
    former = {name: value for name, value in identity.items() if name != "walk"} | {"validate_sessions": 10}
    (tmp_path / "run.json").write_text(json.dumps(former))
    with pytest.raises(RunFolderError, match=r"belongs to a run with validate_sessions = 10, this one has None"):
        open_run(tmp_path, identity, {})
    wider = replace(small, purge_sessions=30).identity("00" * 32)
    (tmp_path / "run.json").write_text(json.dumps(identity))
    with pytest.raises(RunFolderError, match=r"walk = .*'purge': 22.*, this one has .*'purge': 30"):
        open_run(tmp_path, wider, {})


def test_validation_accounts_begin_evenly_spread_over_the_first_half_and_their_growth_is_averaged() -> None:
    dates = list("abcdefgh")
    assert ["".join(part) for part in later_starts(dates, 4)] == ["bcdefgh", "cdefgh", "defgh"]
    assert later_starts(dates, 1) == []
    # 10 % in ten sessions and a loss of 5 % in five: (0.1 / 10 + log(0.95) / 5) / 2
    assert mean_growth([(exp(0.1) - 1.0, 10), (-0.05, 5)]) == pytest.approx((0.01 + log(0.95) / 5) / 2)
    assert mean_growth([(-1.0, 1)]) < -20.0  # all lost is finite
