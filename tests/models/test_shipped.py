"""What is shipped says what it is. An installed wheel brings it: a dry run reads it where there is no store."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.daemon import _settings, main, parser
from daemon.core.strategy_rules import DIGEST, rules_digest, trading_for, with_rules
from daemon.models import shipped as shipped_models
from daemon.models.pointer import ModelError
from daemon.models.store import exported_as, load, versions
from strategies.registry import STRATEGIES, strategy
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


# --- what they are ------------------------------------------------------------------------------------------------

STORE = REPOSITORY / "onnx_models"
LEARNED = dict.fromkeys(STRATEGIES, "unproven") | {"option_scalper": ""}  # "": made before versions stated it
FIRST_WORDS = {
    "passive": "The exported policy is the passive one, which ",
    "unproven": "Exported although no lead over the best baseline is proven. ",
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_passive_policy_and_the_learned_one_are_shipped_and_the_manual_says_which_answers(name: str) -> None:
    shipped = {version: load(STORE, strategy(name), version).manifest for version in versions(STORE, name)}
    assert sorted(map(exported_as, shipped.values())) == sorted(["passive", LEARNED[name]])
    current = load(STORE, strategy(name)).version
    assert exported_as(shipped[current]) == "passive"
    assert f"| `{name}` | `{current}` |" in (REPOSITORY / "docs" / "MODELS.md").read_text()
    for manifest in shipped.values():
        assert not manifest.promoted
        if exported := exported_as(manifest):
            first = FIRST_WORDS[exported]
            assert manifest.note.startswith(first if manifest.claim is None else manifest.claim.sentence)
            assert first in manifest.note
            tested = with_rules(trading_for(name), manifest.desk)
            assert manifest.rules[DIGEST] == rules_digest(tested)  # no key that came later changes it


def test_a_dry_run_s_check_says_what_the_shipped_policy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["--dry-run", "--check", "--strategy", "daily_rebalancer", "--state-dir", str(tmp_path / "state")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model ")]
    sentence = "it is the strategy's passive policy, because no lead of a learned one is proven"
    assert line.endswith(f", verified, not promoted: allowed in a dry run only; {sentence}")
