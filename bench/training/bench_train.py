"""How fast training is, against Stable-Baselines3 on the same machine and the same work: `make bench-train`.

Each figure is measured in a process of its own with one thread (a peer with one and with two, the better counts), in
short windows of which the best and the median are printed. The last line is one JSON object, with the processor and
what is chosen for it; `--quick` is a smoke run. A processor without AVX-512 is played by

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sb3_contrib
import torch
from torch import nn

from bench.training import train_daily
from bench.training.train_daily import DailySize, funds_peer, recorded, stocks_peer
from bench.training.train_ours import (
    carried_speed,
    environment_speed,
    flops,
    lead,
    our_course,
    our_speed,
    peak_gflops,
    small_levers,
)
from bench.training.train_peers import SameLstm, SameTrunk, recurrent_speed, sb3_course, sb3_lifted, sb3_speed
from bench.training.train_work import (
    BARS,
    PROCESSES,
    QUICK,
    SCORE,
    WORK,
    Course,
    Rate,
    Size,
    alone,
    apart,
    data,
    median,
    optimum,
    progress,
    seconds_to_score,
    versions,
)
from strategies.daily_rebalancer import SPEC as REBALANCER
from strategies.regime_switcher import SPEC as SWITCHER
from training.desks.scalper.network import IDENTITY, build, parameter_count
from training.rl.kernels import bf16_cost, fast_precision, how_computed
from training.rl.process_group import ProcessGroup


class Table:
    """Lines as they are measured, and the figures for the last one."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        print(f"{'transitions a second':64}{'best':>10}{'median':>10}{'a core-s':>10}", flush=True)

    def rate(self, key: str, words: str, measured: Rate) -> float:
        """Print one line and add one figure: the best window's."""
        print(f"{words:64}{measured.best:>10,.0f}{measured.median:>10,.0f}{measured.by_processor:>10,.0f}", flush=True)
        self.figures[key] = round(measured.best)
        self.figures.setdefault("noise", {})[key] = round(measured.median / measured.best, 3)
        self.figures.setdefault("per_core_second", {})[key] = round(measured.by_processor)
        return measured.best

    def peer(
        self, key: str, words: str, threads: tuple[int, ...], measure: Callable[..., Rate], *arguments: Any
    ) -> int:
        """A peer with each number of threads, its last argument; the best counts, and which it was is returned.

        Where its threads wait for each other for more than twice the first one's time, that is all there is to know.
        """
        rates: dict[int, Rate] = {}
        start, patience_s = time.perf_counter(), None
        for count in threads:
            progress(f"{words}, {count} threads")
            rate = apart(measure, *arguments, count)(patience_s)
            if rate is not None:
                rates[count] = rate
            patience_s = patience_s or 2 * (time.perf_counter() - start)
        best = max(rates, key=lambda count: rates[count].best)
        other_rates = (
            f", {count}: {rates[count].best:,.0f}" if count in rates else f", {count}: too slow" for count in threads
        )
        self.rate(key, f"{words} (threads{''.join(other_rates)[1:]})", rates[best])
        return best

    def figure(self, key: str, words: str, value: Any) -> None:
        """One line of another kind."""
        self.figures[key] = value
        print(f"{words:64}{value if isinstance(value, str) else f'{value:,.4g}':>10}", flush=True)

    def course(self, key: str, words: str, result: Course) -> None:
        """Seconds until the score, or that it was not reached."""
        reached = f"{result.seconds:.1f} s, {result.steps:,} steps" if result.seconds is not None else ""
        print(
            f"{words:64}{reached or f'not reached in {result.spent_s:.0f} s (score {result.last:.2f})':>30}", flush=True
        )
        self.figures[key] = None if result.seconds is None else round(result.seconds, 2)
        self.figures.setdefault("courses", {})[key] = asdict(result)


def against_sb3(table: Table, size: Size, where: str) -> int:
    """Speed with the feed-forward network and with the LSTM; the best number of threads where it is set as ours."""
    single = replace(WORK, environments=1, rollout_steps=size.single_steps, batch=64)
    eight = replace(single, environments=8, rollout_steps=size.single_steps // 8)
    name = "sb3_matched_planted_steps_per_s"
    threads = table.peer(name, "SB3 as ours", size.threads, sb3_speed, "planted", SameTrunk, size.work, size.windows)
    for key, words, place, extractor, c in (
        ("sb3_matched_option_steps_per_s", f"SB3 as ours, {where} market", where, SameTrunk, size.work),
        ("sb3_default_steps_per_s", "SB3 defaults", "planted", SameTrunk, single),
        ("sb3_8env_steps_per_s", "SB3, 8 environments", "planted", SameTrunk, eight),
        ("sb3_lstm_default_steps_per_s", "SB3 defaults, LSTM", "planted", SameLstm, single),
        ("sb3_lstm_steps_per_s", "SB3 as ours, LSTM", "planted", SameLstm, size.recurrent),
    ):
        table.peer(key, words, size.threads, sb3_speed, place, extractor, c, size.windows)
    table.peer(
        "sb3_matched_fast_steps_per_s", "SB3 as ours, our kernels", size.threads, sb3_lifted, size.work, size.windows
    )
    for figures in (table.figures, table.figures["per_core_second"]):  # the market on which it did better
        figures["sb3_matched_steps_per_s"] = max(figures[name], figures["sb3_matched_option_steps_per_s"])
    return threads


def carried(table: Table, size: Size, group: dict[str, Any]) -> None:
    """A carried state: ours in the group and in one process, the peer with the sizes that suit it best."""
    for key, name in (("carried", "float32"), ("carried_bf16", "bf16")):
        words = f"ours, {name}, {PROCESSES} processes, carried GRU 128"
        table.rate(f"{key}_steps_per_s", words, group[f"{name} carried"])
    carried_rate = alone(carried_speed, ProcessGroup(), size.carried, "float32", size.windows)
    table.rate("carried_one_process_steps_per_s", "ours, float32, 1 process, carried GRU 128", carried_rate)
    figures = table.figures
    whole = size.carried
    for part, pieces in ((4, 8), (1, 2), (1, 1)):
        c = replace(whole, environments=whole.environments // part, batch=whole.batch // pieces)
        key = f"sb3_recurrent_{c.environments}env_{c.batch}_steps_per_s"
        words = f"RecurrentPPO, {c.environments} environments, batch {c.batch}"
        table.peer(key, words, size.threads, recurrent_speed, c, size.windows)
        figures["sb3_recurrent_steps_per_s"] = max(figures[key], figures.get("sb3_recurrent_steps_per_s", 0))


def daily(table: Table, size: DailySize, group: dict[str, Any]) -> None:
    """`daily_rebalancer` and `regime_switcher`, ours and Stable-Baselines3's, and what is lost or won between them."""
    for name, key in ((REBALANCER.name, "rebalancer"), (SWITCHER.name, "switcher")):
        for precision, suffix in (("float32", ""), ("bf16", "_bf16")):
            words = f"ours, {precision}, {PROCESSES} processes, {name}"
            table.rate(f"{key}{suffix}_steps_per_s", words, group[f"{name} {precision}"])
    rows = (
        ("rebalancer_one_process", "ours, float32, 1 process", REBALANCER.name, size.wide, "float32"),
        ("rebalancer_one_process_bf16", "ours, bf16, 1 process", REBALANCER.name, size.wide, "bf16"),
        ("rebalancer_finrl", "ours, float32, 1 process, FinRL's sizes", REBALANCER.name, size.finrl, "float32"),
        ("switcher_one_process", "ours, float32, 1 process", SWITCHER.name, size.switching, "float32"),
        ("switcher_one_process_bf16", "ours, bf16, 1 process", SWITCHER.name, size.switching, "bf16"),
    )
    for key, words, name, c, precision in rows[: size.rows]:
        progress(f"{words}, {name}")
        our_rate = alone(train_daily.ours, ProcessGroup(), name, c, precision, size)
        table.rate(f"{key}_steps_per_s", f"{words}, {name}", our_rate)
    daily_peers(table, size)
    for mine_of, peer in (
        ("rebalancer", "rebalancer_matched"),
        ("rebalancer_finrl", "rebalancer_finrl"),
        ("rebalancer", "rebalancer_default"),
        ("switcher", "switcher"),
        ("switcher", "switcher_preset"),
    ):
        if f"sb3_{peer}_steps_per_s" not in table.figures:
            continue
        for rates, suffix, words in (
            (table.figures, "", ""),
            (table.figures["per_core_second"], "_per_core_second", ", per core-second"),
        ):
            ratio = round(rates[f"{mine_of}_steps_per_s"] / rates[f"sb3_{peer}_steps_per_s"], 2)
            table.figure(f"times_sb3_{peer}{suffix}", f"{mine_of}, times SB3's {peer}{words}", ratio)


def daily_peers(table: Table, size: DailySize) -> None:
    """Stable-Baselines3's PPO, and sb3-contrib's recurrent one with the preset's minibatch and with others."""
    single = replace(size.finrl, environments=1, rollout_steps=size.finrl.environments * size.finrl.rollout_steps)
    rows = (
        ("matched", "SB3 as ours", size.wide),
        ("finrl", "SB3, FinRL's sizes", size.finrl),
        ("default", "SB3 defaults", single),
    )
    for key, words, c in rows[: size.rows]:
        name = f"sb3_rebalancer_{key}_steps_per_s"
        table.peer(name, f"{words}, {REBALANCER.name}", size.threads, stocks_peer, c, size)
    short = size.switching.rollout_steps // 4
    for key, part, minibatches in size.recurrent[: size.rows]:
        environments, batch = size.switching.environments // part, int(size.switching.batch * minibatches)
        c = replace(size.switching, environments=environments, rollout_steps=short, batch=batch)
        words = f"RecurrentPPO, {SWITCHER.name}, {c.environments} environments, batch {c.batch}"
        table.peer(f"sb3_switcher_{key}_steps_per_s", words, size.threads, funds_peer, c, size)
        for rates in (table.figures, table.figures["per_core_second"]):  # the sizes that suit it best
            peer_rate = rates[f"sb3_switcher_{key}_steps_per_s"]
            rates["sb3_switcher_steps_per_s"] = max(peer_rate, rates.get("sb3_switcher_steps_per_s", 0))


def to_the_score(table: Table, size: Size, group: dict[str, Any], threads: int) -> None:
    """Seconds until 90 % of the optimum on the planted market, with the settings as measured and with brisk ones.

    Brisk settings run with some seeds, whose median counts; Stable-Baselines3 with the threads that were best for it.
    """
    seeds, look = range(size.seeds), size.look_steps
    mine, peers = {}, {}
    for name in ("float32", "bf16"):
        runs = [
            alone(our_course, ProcessGroup(), size.brisk, name, seed, size.brisk_steps, look, True) for seed in seeds
        ]
        mine[f"{name}_seconds_matched"], mine[f"{name}_seconds_brisk"] = group[f"{name} course"], median(runs)
        last_score = round(statistics.mean(run.last for run in runs), 4)
        table.figure(f"{name}_score", f"score after {size.brisk_steps:,} brisk steps, {name}, mean", last_score)
    peers["sb3_seconds_matched"] = alone(sb3_course, size.work, threads, 1, size.score_steps, look, 2 * size.cap_s)
    runs = [alone(sb3_course, size.brisk, threads, seed, size.brisk_steps, look, size.cap_s) for seed in seeds]
    peers["sb3_seconds_brisk"] = median(runs)
    single = replace(WORK, environments=1, rollout_steps=size.single_steps, batch=64)
    peers["sb3_seconds_default"] = alone(sb3_course, single, 1, 1, 10**9, look, size.cap_s)
    for key, result in (mine | peers).items():
        table.course(key, key.replace("_", " "), result)
    table.course("seconds_to_score", "ours, the best", min(mine.values(), key=seconds_to_score))
    table.course("sb3_seconds_to_score", "Stable-Baselines3, the best", min(peers.values(), key=seconds_to_score))


def one_core(table: Table, size: Size, where: str) -> None:
    """What each lever gives, on the planted market, one process."""
    ways = (("mkl", "float32", False), ("onednn", "float32", True), ("bf16", "bf16", True))
    for name, precision, kernels in ways:
        core_rate = alone(our_speed, ProcessGroup(), "planted", "mlp", size.work, precision, size.windows, kernels)
        words = f"ours, {precision}, {'fast' if kernels else 'default'} kernels, 1 process"
        table.rate(f"one_process_{name}_steps_per_s", words, core_rate)
    for key, value in alone(small_levers, size.work, size.windows).items():
        table.figure(key, key.replace("_", " "), value)
    for place in dict.fromkeys((where, "planted")):
        core_rate = alone(environment_speed, place, size.work.environments, size.windows)
        table.rate(f"environment_{place}_steps_per_s", f"environments alone, {place} market, 1 process", core_rate)


def limits(table: Table, size: Size) -> None:
    """The cores' peak, and how much of it training uses."""
    for name, kernels in (("default", False), ("float32", True)):
        running = [apart(peak_gflops, kernels, size.product, size.windows) for _ in range(PROCESSES)]
        value = sum(result() for result in running)
        table.figure(f"peak_gflops_{name}", f"GFLOP/s, {name} kernels, {PROCESSES} processes", round(value, 1))
    figures = table.figures
    for share, rate, network, c in (
        ("peak_share", "float32_steps_per_s", "mlp", size.work),
        ("lstm_peak_share", "lstm_steps_per_s", "lstm", size.recurrent),
    ):
        used = flops(network, c.epochs) * figures[rate] * 1e-9 / figures["peak_gflops_float32"]
        table.figure(share, f"share of it in training, {network}", round(used, 3))


def run(size: Size, where: str, of_daily: DailySize, daily_alone: bool) -> dict[str, Any]:
    """Everything, or the daily desks alone; the figures."""
    table = Table()
    group = alone(train_daily.lead, of_daily) if daily_alone else alone(lead, size, where, of_daily)
    daily(table, of_daily, group)
    if daily_alone:
        return table.figures
    for precision in ("float32", "bf16"):
        for key, words, precision_rate in (
            ("", f"{where} market", group[precision]),
            ("_planted", "planted market", group[f"{precision} planted"]),
            ("_lstm", "LSTM", group[f"{precision} lstm"]),
        ):
            table.rate(
                f"{precision}{key}_steps_per_s", f"ours, {precision}, {PROCESSES} processes, {words}", precision_rate
            )
    table.figures["lstm_steps_per_s"] = table.figures["float32_lstm_steps_per_s"]
    one_core(table, size, where)
    threads = against_sb3(table, size, where)
    carried(table, size, group)
    to_the_score(table, size, group, threads)
    limits(table, size)
    figures = table.figures
    for key, part, whole in (
        ("times_sb3_default", "float32_steps_per_s", "sb3_default_steps_per_s"),
        ("times_sb3_matched", "float32_steps_per_s", "sb3_matched_steps_per_s"),
        ("bf16_times_sb3_matched", "bf16_steps_per_s", "sb3_matched_steps_per_s"),
        ("lstm_times_sb3_default", "lstm_steps_per_s", "sb3_lstm_default_steps_per_s"),
        ("lstm_matched_ratio", "lstm_steps_per_s", "sb3_lstm_steps_per_s"),
        ("carried_ratio", "carried_steps_per_s", "sb3_recurrent_steps_per_s"),
    ):
        table.figure(key, key.replace("_", " "), round(figures[part] / figures[whole], 2))
    per_core = figures["per_core_second"]  # what the other programs of a busy machine disturb less
    ratio = round(per_core["float32_planted_steps_per_s"] / per_core["sb3_matched_steps_per_s"], 2)
    table.figure("times_sb3_matched_per_core_second", "times sb3 matched, per core-second", ratio)
    return figures


def cpu() -> str:
    """The processor's name, as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table and the JSON line; the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--daily", action="store_true", help="the two daily desks alone")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else Size()
    torch.set_num_threads(1)
    where = "option" if BARS.exists() and size is not QUICK else "planted"
    of_daily = train_daily.QUICK if options.quick else DailySize(recorded=recorded())
    train_daily.tables(of_daily)  # before there are copies of this process
    if where == "option" and not options.daily:
        data()
    if not options.daily:
        optimum()
    torch.optim.Adam([nn.Parameter(torch.zeros(1))]).step()  # torch imports much at the first one: once, before copies
    start = time.perf_counter()
    figures = {
        "benchmark": "train",
        "quick": size is QUICK,
        "market": where,
        "parameters": parameter_count(build("mlp", IDENTITY, 0)),
        "lstm_parameters": parameter_count(build("lstm", IDENTITY, 0)),
        "cpu": cpu(),
        "computes": alone(how_computed, "float32", "cpu"),
        "precision": fast_precision(),
        "bf16_over_float32_s": round(alone(bf16_cost), 2),
        "cores": len(os.sched_getaffinity(0)),
        "processes": PROCESSES,
        "threads_per_process": 1,
        "score": SCORE,
        "versions": versions(sb3_contrib=sb3_contrib.__version__),
        "daily_market": "recorded" if of_daily.recorded else "made up",
        **run(size, where, of_daily, options.daily),
    }
    figures["took_s"] = round(time.perf_counter() - start, 1)
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
