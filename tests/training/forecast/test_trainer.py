"""Training of a member: it learns, repeats itself byte for byte, goes on after a stop, and reports its progress."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.planted.panels import PLAN, panel
from training.forecast.folds import by_years, rows_of
from training.forecast.network import ForecastNet
from training.forecast.stage import Material, frozen_of
from training.forecast.trainer import MemberProgress, MemberRecipe, MemberTrainer, Samples, fit, identity_of
from training.rl.pool import Stopped

QUICK = MemberRecipe(epochs=3, batch=64, learning_rate=4e-3, stride=3, patience=0)


@pytest.fixture(scope="module")
def material() -> Material:
    return panel(1, symbols=3)[0]


def _samples(material: Material) -> tuple[Samples, Samples]:
    fold = by_years(material.dates, 2013, 2013)[0]
    rows = rows_of(fold, material.labels, material.valid, 2)
    return material.samples(rows.train), material.samples(rows.validate)


def _trainer(material: Material, recipe: MemberRecipe = QUICK, seed: int = 5) -> MemberTrainer:
    train, validate = _samples(material)
    fold = by_years(material.dates, 2013, 2013)[0]
    frozen = frozen_of(material, rows_of(fold, material.labels, material.valid, 2), PLAN)
    return MemberTrainer(ForecastNet(PLAN.sizes, frozen, seed), material.windows, train, validate, recipe, seed)


def _bytes(weights: dict[str, Tensor]) -> bytes:
    return b"".join(value.numpy().tobytes() for value in weights.values())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(material: Material) -> None:
    first, again, other = (fit(_trainer(material, seed=seed)) for seed in (5, 5, 6))
    assert _bytes(first.weights) == _bytes(again.weights)
    assert first.curve == again.curve
    assert _bytes(first.weights) != _bytes(other.weights)


def test_a_training_that_was_stopped_anywhere_ends_in_the_same_bytes(material: Material, tmp_path: Path) -> None:
    expected = fit(_trainer(material))
    checkpoint, batches = tmp_path / "member.pt", _trainer(material).batches(0)
    for run_ends_after in (2, batches + 1, batches + 2):  # in the first epoch, the second, the third
        answers = iter([False] * (run_ends_after - 1) + [True])
        with pytest.raises(Stopped):
            fit(_trainer(material), checkpoint=checkpoint, identity="same", pause=partial(next, answers))
    result = fit(_trainer(material), checkpoint=checkpoint, identity="same")
    assert _bytes(result.weights) == _bytes(expected.weights)
    assert result.curve == expected.curve


def test_a_finished_training_is_read_again_and_not_done_again(material: Material, tmp_path: Path) -> None:
    checkpoint = tmp_path / "member.pt"
    first = fit(_trainer(material), checkpoint=checkpoint, identity="same")
    again = fit(_trainer(material), checkpoint=checkpoint, identity="same", pause=lambda: True)
    assert _bytes(again.weights) == _bytes(first.weights)


def test_a_checkpoint_of_something_else_is_not_gone_on_from(material: Material, tmp_path: Path) -> None:
    checkpoint = tmp_path / "member.pt"
    fit(_trainer(material), checkpoint=checkpoint, identity="one")
    with pytest.raises(Stopped, match="in epoch 1"):
        fit(_trainer(material), checkpoint=checkpoint, identity="other", pause=lambda: True)


def test_the_identity_changes_with_everything_that_the_weights_depend_on(material: Material) -> None:
    train, validate = _samples(material)
    other = panel(2, symbols=3)[0]
    other_classes = Samples(train.rows, np.roll(train.classes, 1))
    trainer, windows = _trainer(material), material.windows
    identities = [
        identity_of(trainer, windows, train, validate, 5),
        identity_of(trainer, windows, train, validate, 6),
        identity_of(trainer, windows, other_classes, validate, 5),
        identity_of(trainer, windows, validate, train, 5),
        identity_of(trainer, other.windows, train, validate, 5),
        identity_of(_trainer(material, seed=6), windows, train, validate, 5),
        identity_of(_trainer(material, msgspec.structs.replace(QUICK, stride=2)), windows, train, validate, 5),
    ]
    assert len(set(identities)) == len(identities)
    assert identity_of(_trainer(material), windows, train, validate, 5) == identities[0]


def test_progress_counts_all_batches_and_tells_the_seconds_left(material: Material) -> None:
    messages: list[MemberProgress] = []
    fit(_trainer(material), tell=messages.append)
    batches = [progress for progress in messages if progress.epoch is None]
    assert [progress.batches for progress in batches] == list(range(1, batches[0].total + 1))
    assert all(progress.seconds_left >= 0.0 for progress in messages)
    assert messages[-1].seconds_left == 0.0
    assert [progress.epoch.epoch for progress in messages if progress.epoch is not None] == [1, 2, 3]


def test_the_weights_with_the_least_log_loss_are_kept_and_patience_ends_it(material: Material) -> None:
    recipe = MemberRecipe(epochs=40, batch=32, learning_rate=3e-2, stride=1, patience=2)
    trainer = _trainer(material, recipe)
    result = fit(trainer)
    losses = [epoch.log_loss for epoch in result.curve]
    assert len(result.curve) < 40
    assert result.chosen.log_loss == min(losses)
    assert len(losses) - result.chosen.epoch == 2
    trainer.network.load_state_dict(result.weights)
    assert trainer.look()[0] == pytest.approx(min(losses), abs=1e-12)


def test_all_rows_are_seen_once_in_as_many_epochs_as_the_stride(material: Material) -> None:
    recipe = msgspec.structs.replace(QUICK, batch=1, stride=3, epochs=3)
    trainer, row_count = _trainer(material, recipe), 0
    for epoch in range(3):
        row_count += trainer.batches(epoch)
    assert row_count == len(_samples(material)[0].rows)


def test_a_look_is_the_log_loss_of_the_answer_without_class_weights(material: Material) -> None:
    trainer, (_, validate) = _trainer(material), _samples(material)
    mask = validate.rows[:, 0] % QUICK.stride == 0
    sequences = material.windows.gather(material.windows.places(validate.rows[mask]))
    classes = torch.from_numpy(validate.classes[mask].astype(np.int64))
    with torch.no_grad():
        logits = trainer.network(sequences)
    log_loss, accuracy = trainer.look()
    assert log_loss == pytest.approx(float(nn.functional.cross_entropy(logits, classes)), abs=1e-6)
    assert accuracy == pytest.approx(float((logits.argmax(dim=1) == classes).float().mean()), abs=1e-6)


def test_bf16_products_learn_what_float32_products_learn(material: Material) -> None:
    exact = fit(_trainer(material)).chosen.log_loss
    rough = fit(_trainer(material, msgspec.structs.replace(QUICK, precision="bf16"))).chosen.log_loss
    assert rough == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(
    ("text", "problem"),
    [(b'{"batch": 0}', "batch is 0"), (b'{"precision": "fp8"}', "precision is 'fp8'"), (b'{"stride": -1}', "stride")],
)
def test_a_recipe_that_makes_no_sense_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.json.decode(text, type=MemberRecipe)
