"""How fast a member of the forecaster is trained, against a plain torch loop of the same layout at the same batch.

One thread each; samples a second of wall clock and of processor time, the better window counts. `--quick` is a smoke
run. The last line is one JSON object; the ratios in it are of processor time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench.training.train_work import Rate, alone, measured, progress
from training.forecast.network import FeatureScaling, ForecastNet, Frozen, Sizes
from training.forecast.panel import Windows
from training.forecast.trainer import MemberRecipe, MemberTrainer, Samples
from training.rl.kernels import use_fast_float32
from training.rl.ppo import make_deterministic

DAYS, SYMBOLS = 500, 20


class Plain(nn.Module):
    """The layout as one writes it down first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        first, second = sizes.channels
        self.first = nn.Conv1d(sizes.features, first, sizes.kernel)
        self.second = nn.Conv1d(first, second, sizes.kernel)
        self.lstm = nn.LSTM(second, sizes.hidden, batch_first=True)
        self.score = nn.Sequential(nn.Linear(sizes.hidden, sizes.attention), nn.Tanh(), nn.Linear(sizes.attention, 1))
        self.head = nn.Linear(sizes.hidden, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits."""
        features = torch.relu(self.second(torch.relu(self.first(sequences.transpose(1, 2)))))
        outputs = self.lstm(features.transpose(1, 2))[0]
        logits: Tensor = self.head((torch.softmax(self.score(outputs), dim=1) * outputs).sum(dim=1))
        return logits


def plain(batch: int, windows: int) -> Rate:
    """Samples at hand, forward, backward, clipping, Adam."""
    torch.set_num_threads(1)
    model, loss = Plain(Sizes()), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters())
    sequences, classes = torch.randn(batch, 60, 78), torch.randint(0, 3, (batch,))

    def work() -> int:
        optimizer.zero_grad()
        torch.autograd.backward(loss(model(sequences), classes))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return batch

    return measured(work, windows)


def ours(batch: int, windows: int, precision: str) -> Rate:
    """The same out of a panel, gathering included."""
    make_deterministic()
    use_fast_float32()
    random = np.random.default_rng(0)
    panel = Windows(random.normal(size=(DAYS, SYMBOLS, 78)).astype(np.float32), 60)
    rows = np.argwhere(np.ones((DAYS, SYMBOLS), dtype=np.bool_))[59 * SYMBOLS :]
    samples = Samples(rows, random.integers(0, 3, len(rows)).astype(np.int8))
    network = ForecastNet(Sizes(), Frozen(FeatureScaling.none(78)), seed=0)
    trainer = MemberTrainer(
        network, panel, samples, samples, MemberRecipe(batch=batch, precision=precision, stride=1), seed=0
    )
    epoch = trainer.epoch()

    def work() -> int:
        nonlocal epoch
        if next(epoch, None) is None:
            epoch = trainer.epoch()
            next(epoch)
        return batch

    return measured(work, windows)


def main() -> None:
    """Measure, print a line each, and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    windows = 1 if options.quick else 8
    cases: dict[str, tuple[Callable[..., Rate], tuple[str, ...]]] = {
        "plain": (plain, ()),
        "float32": (ours, ("float32",)),
        "bf16": (ours, ("bf16",)),
    }
    rates: dict[str, Rate] = {}
    for name, (work, arguments) in cases.items():
        progress(f"the forecaster, {name}")
        rates[name] = alone(work, options.batch, windows, *arguments)
        rate = rates[name]
        print(f"{name:12}{rate.best:>10,.0f}{rate.median:>10,.0f}{rate.by_processor:>10,.0f}", flush=True)
    figures = {f"{name}_a_core_second": round(rate.by_processor) for name, rate in rates.items()}
    ratios = {f"{n}_ratio": round(rates[n].by_processor / rates["plain"].by_processor, 2) for n in ("float32", "bf16")}
    print(json.dumps({"forecaster": {"batch": options.batch} | figures | ratios}))


if __name__ == "__main__":
    main()
