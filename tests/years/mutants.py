"""Whether the years find small changes of the code: those that the tests see, and those that they do not.

`make mutants` draws the changes and says of each what the tests did (`bench/mutants/sample.py`). Each is made in a copy
of the tree; it is found by a run that breaks a rule with it and none without. Short runs go first.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.paths import REPOSITORY
from tests.years.defects import copied
from tests.years.desks import DESKS
from tests.years.find import Tree, schedules, search, short_first

KILLED, SURVIVED = "killed", "survived"
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? .*$\n", re.MULTILINE)


def draw_mutants(sample: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """The sample's rows to try: so many killed ones, drawn by the seed, and all that survived."""
    rows = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    killed = [row for row in rows if row["outcome"] == KILLED]
    random.Random(f"mutants {seed}").shuffle(killed)
    return [*killed[:count], *(row for row in rows if row["outcome"] == SURVIVED)]


def mutated(row: dict[str, Any], root: Path = REPOSITORY) -> dict[str, str]:
    """Path -> text of the changed file. Raises ValueError where the file is not the one that the sample changed."""
    path = row["mutant"]["file"]
    lines = (root / path).read_text(encoding="utf-8").splitlines(keepends=True)
    for begin, old, new in reversed(list(_hunks(row["diff"]))):
        if lines[begin : begin + len(old)] != old:
            raise ValueError(f"{path}, line {begin + 1}: not what the sample changed there: sample this commit anew")
        lines[begin : begin + len(old)] = new
    return {path: "".join(lines)}


def _hunks(diff: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield of each hunk its first line (from 0), the old lines and the new ones."""
    _, *parts = _HUNK.split(diff)
    for begin, part in zip(parts[::2], parts[1::2], strict=True):
        lines = part.splitlines(keepends=True)
        yield int(begin) - 1, [it[1:] for it in lines if it[0] in " -"], [it[1:] for it in lines if it[0] in " +"]


def name_of(row: dict[str, Any]) -> str:
    """File, line, operator and place, as the sample prints them."""
    mutant = row["mutant"]
    return f"{mutant['file']}:{mutant['line']} {mutant['operator'].removeprefix('core/')} {mutant['occurrence']}"


def main(options: argparse.Namespace) -> int:
    """Try each that is not in the file of results; print the shares found. Returns 0."""
    rows = [json.loads(line) for line in options.finds.read_text().splitlines()] if options.finds.exists() else []
    rows_by_name = {row["mutant"]: row for row in rows if "mutant" in row}
    lives = short_first(schedules([options.desk] if options.desk else DESKS, options.seed))[: options.most]
    results = []
    with Tree() as whole, options.finds.open("a") as file:
        for mutant in draw_mutants(options.sample, options.mutants, options.seed):
            name = name_of(mutant)
            row: dict[str, Any] = rows_by_name.get(name, {})
            if not row:
                row = {"mutant": name, "outcome": mutant["outcome"], "found": False}
                with Tree(partial(copied, mutated(mutant))) as tree:
                    search(name, lives, tree, whole, row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(line_of(row), flush=True)
            results.append(row)
    print(shares(results))
    return 0


def line_of(row: dict[str, Any]) -> str:
    """The row in a line."""
    by = f"found by {row['desk']} {row['seed']}: {row['rule']}" if row["found"] else "NOT FOUND"
    return f"{row['mutant']} ({row['outcome']} by the tests): {by}, {row['runs']} runs lived"


def shares(rows: list[dict[str, Any]]) -> str:
    """How many were found, of those that the tests see and of those that they do not."""
    all_, finds = Counter(row["outcome"] for row in rows), Counter(row["outcome"] for row in rows if row["found"])
    return "; ".join(
        f"{outcome} by the tests: found {finds[outcome]} of {all_[outcome]}" for outcome in (KILLED, SURVIVED)
    )
