"""An installed wheel brings its policies: a dry run reads them where there is no store, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.daemon import _settings, parser
from daemon.models import shipped as shipped_models
from daemon.models.pointer import ModelError
from daemon.models.store import load
from strategies.registry import strategy
from tests.support.paths import REPOSITORY


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a packaged store as a wheel has it."""
    packaged = tmp_path / "site-packages" / "shipped_models"
    packaged.parent.mkdir()
    packaged.symlink_to(REPOSITORY / "onnx_models")
    monkeypatch.setattr(shipped_models, "PACKAGED", packaged)
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return packaged


def store_of(*arguments: str) -> Path:
    return _settings(parser().parse_args(arguments)).paths.models_dir


def test_a_dry_run_without_a_store_reads_the_packaged_one(empty: Path) -> None:
    assert store_of("--dry-run") == empty
    assert load(empty, strategy("option_scalper")).version == (empty / "option_scalper" / "current").read_text().strip()


def test_a_store_of_one_s_own_counts_and_so_does_a_named_one(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLTRADER_PATHS__MODELS_DIR", "elsewhere")
    assert store_of("--dry-run") == Path("elsewhere")
    monkeypatch.delenv("RLTRADER_PATHS__MODELS_DIR")
    Path("onnx_models").mkdir()
    assert store_of("--dry-run") == Path("onnx_models")


def test_a_trading_desk_needs_a_store_of_its_own_and_the_refusal_says_how(empty: Path) -> None:
    assert store_of() == Path("onnx_models")
    with pytest.raises(ModelError, match="copy the shipped one"):
        load(store_of(), strategy("option_scalper"))


def test_a_checkout_has_no_packaged_store() -> None:
    assert not shipped_models.PACKAGED.exists()
    assert shipped_models.how_to_copy() == ""
