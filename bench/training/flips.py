"""What online learning does after a flip of the rule, and on noise, with a verdict. `make bench-flips bench-noise`.

`python -m bench.training.flips [--noise] [--seeds N] [--into FILE]`. Without `--noise`: the share of the new optimum
after each of 20 sessions of the flipped rule, of the learner and of the frozen champion. A learner recovered if it came
to 90 % and stands there in the mean of the last five sessions: one session's weights follow the noise of its rewards.
With it: a market in which nothing can be gained; versions are taken each five sessions, and judged by the card's
criteria as shipped on the eight sessions after them. A version that passes its card counts as promoted, though replay,
shadow and canary would come first. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.training.resumed import OtherStudy, resumed
from bench.training.train_work import SCORE, alone, progress
from daemon.config.tables import LadderTable
from daemon.models.ladder import rules
from strategies.kit.card import FORMAT as CARD_FORMAT
from strategies.kit.card import STAKES, Card, Lead
from tests.support.planted.flipping import Flipping, share_of_optimum
from tests.support.rl.flipped import AFTER, BEFORE, DISCOUNT, EPSILON, MARKET, Desk, champion
from training.evidence.off_policy import OffPolicy
from training.online.judging import compare_with_champion
from training.rl.dqn.networks import QNetwork
from training.rl.ppo import make_deterministic

NOISE = Flipping(drift=0.0)
HORIZON = 2
PORTFOLIO = 2  # of a logged row: position, and the session's share that is left


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played: sessions after the flip, or of noise; steps of the champion's cold start."""

    sessions: int = 20
    last: int = 5  # sessions at the end, whose mean share counts
    steps: int = 66_000
    every: int = 5  # sessions between two versions
    card: int = 8  # sessions of a card, the least that the ladder takes


QUICK = Size(sessions=2, last=1, steps=64, every=1, card=1)


def of_flip(seed: int, size: Size) -> dict[str, Any]:
    """Shares of the new optimum after the flip: of online learning after each session, and of the frozen champion."""
    make_deterministic()
    network = champion(seed, steps=size.steps)
    desk = Desk(network, seed)
    desk.market.rule = BEFORE
    desk.play(size.sessions)
    desk.market.rule = AFTER
    shares = []
    for _ in range(size.sessions):
        desk.play(1)
        shares.append(desk.share())
    return {"online": shares, "frozen": share_of_optimum(MARKET, network.values, AFTER)}


# --- noise ------------------------------------------------------------------------------------------------------------


class Noisy(Desk):
    """A desk on noise: the frozen champion trades, the learner learns from it, and every decision is logged."""

    def __init__(self, network: QNetwork, seed: int) -> None:
        super().__init__(copy.deepcopy(network), seed, market=NOISE)
        self._champion = network
        self._log: list[list[float]] = []
        self._seen: list[torch.Tensor] = []

    def play(self, sessions: int) -> None:
        """Go through whole sessions at `EPSILON`."""
        for _ in range(sessions * NOISE.steps):
            observations, session = self.market.observe(), len(self._log) // NOISE.steps
            with torch.no_grad():
                best = int(self._champion.values(observations).argmax())
            behaviour = [EPSILON / 3.0] * 3
            behaviour[best] += 1.0 - EPSILON
            action, reward = self._decide(self._champion)
            place = len(self._log) + session  # it grows by two from session to session
            about = [float(session), 0.0, float(place), 0.0, float(action), reward]
            self._log.append([*about, *behaviour, *observations[0, 1:3].tolist()])
            self._seen.append(observations[0])

    def judged(self, network: QNetwork, since: int, sessions: int) -> OffPolicy:
        """What so many sessions after the first `since` say about a version that was taken there."""
        rows = slice(since * NOISE.steps, (since + sessions) * NOISE.steps)
        with torch.no_grad():
            values = network.values(torch.stack(self._seen[rows])).double().numpy()
        log = np.array(self._log[rows], dtype=np.float64)
        return compare_with_champion(log, values, 0, portfolio=PORTFOLIO, horizon=HORIZON, discount=DISCOUNT)


def of_noise(seed: int, size: Size) -> list[list[Any]]:
    """The versions of one desk: step, reason and words of the ladder about each card."""
    make_deterministic()
    desk, versions, moves = Noisy(champion(seed, steps=size.steps, market=NOISE), seed), [], []
    for session in range(1, size.sessions + 1):
        desk.play(1)
        if session % size.every == 0 and session + size.card <= size.sessions:
            versions.append((session, copy.deepcopy(desk.learner.dqn.network)))
        for since, network in versions:
            if session == since + size.card:
                move = rules.judge_card(card_of(desk.judged(network, since, size.card)), "champion", LadderTable())
                moves.append([move.to_step, move.reason, move.detail])
    return moves


def card_of(result: OffPolicy) -> Card:
    """The card with these figures; its band, which is not in question here, passes."""
    return Card(
        format=CARD_FORMAT,
        version="challenger",
        parent="champion",
        trainer="",
        stream="noise",
        decisions=result.decisions,
        sessions=result.sessions,
        exploration=result.exploration,
        overlap=result.overlap,
        effective=result.effective,
        leads={
            estimate.name: Lead(estimate=estimate.lead.estimate, low=estimate.lead.low, high=estimate.lead.high)
            for estimate in result.estimates
        },
        cannot_be_said=result.cannot_be_said,
        session_mean=0.0,
        session_deviation=1.0,
        band=tuple(stake * stake / 2.0 for stake in STAKES),
    )


# --- the study --------------------------------------------------------------------------------------------------------


def studied(seeds: list[int], *, noise: bool, size: Size) -> Iterator[tuple[int, Any]]:
    """The parts of these seeds, each in a process of its own."""
    for seed in seeds:
        progress(f"{'noise' if noise else 'flip'}, seed {seed}")
        yield seed, alone(of_noise if noise else of_flip, seed, size)


def verdict(parts: list[Any], *, noise: bool, size: Size) -> dict[str, Any]:
    """The figures of all seeds, and whether they are as promised."""
    if noise:
        versions = [version for part in parts for version in part]
        passed = sum(step != rules.REFUSED for step, _, _ in versions)
        sentence = f"{passed} of {len(versions)} challengers passed their card on noise"
        return {"versions": versions, "passed": passed, "holds": passed == 0, "verdict": sentence}
    shares = np.array([part["online"] for part in parts])  # (seeds, sessions)
    frozen = max(part["frozen"] for part in parts)
    reached = [int(np.argmax(row >= SCORE)) + 1 if (row >= SCORE).any() else None for row in shares]
    mean_shares = shares[:, -size.last :].mean(axis=1)
    recovered = sum(first is not None and mean >= SCORE for first, mean in zip(reached, mean_shares, strict=True))
    sentence = (
        f"{recovered} of {len(parts)} learners reached {SCORE:.0%} of the new optimum and held it in the mean of the "
        f"last {size.last} sessions; at the end of the last one {sum(shares[:, -1] >= SCORE)} of {len(parts)}; "
        f"the best frozen champion stands at {frozen:.0%}"
    )
    return {
        "reached_in_session": reached,
        "last_sessions": mean_shares.round(3).tolist(),
        "at_the_end": shares[:, -1].round(3).tolist(),
        "frozen": round(frozen, 3),
        "recovered": recovered / len(parts),
        "holds": recovered == len(parts) and frozen < SCORE,
        "verdict": sentence,
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run what is missing of the study; print its verdict, and all figures as one line of JSON."""
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--noise", action="store_true", help="a market in which nothing can be gained")
    line.add_argument("--seeds", type=int, default=10)
    line.add_argument("--into", type=Path, metavar="FILE", help="keeps each seed as it is done; goes on there")
    line.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    options = line.parse_args(arguments)
    size = QUICK if options.quick else Size()
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    plan = {"study": "noise" if options.noise else "flips", **asdict(size)}
    work = partial(studied, noise=options.noise, size=size)
    try:
        parts = [part for _, part in resumed(options.into, plan, range(options.seeds), work)]
    except OtherStudy as error:
        sys.exit(str(error))
    figures = {**plan, "seeds": options.seeds, **verdict(parts, noise=options.noise, size=size)}
    print(figures["verdict"], flush=True)
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
