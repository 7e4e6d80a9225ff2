"""The log of a live daemon: in order when somebody reads, dropped and counted when nobody does, never waited for."""

from __future__ import annotations

import contextlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

from daemon.operator.log import Log, LossyStream


def test_lines_come_out_whole_and_in_order() -> None:
    target = io.StringIO()
    stream = LossyStream(target)
    log = Log("info", "json", stream)
    for number in range(200):
        log("task_failed", task=str(number), problem="a\nb")
    stream.finish()
    numbers = [json.loads(line)["task"] for line in target.getvalue().splitlines()]
    assert numbers == [str(number) for number in range(200)]


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_says_later_what_was_lost() -> None:
    reading, writing = os.pipe()
    target = os.fdopen(writing, "w")
    stream = LossyStream(target, capacity=10)
    for number in range(5000):
        stream.write(f"{number:0100d}\n")  # 500 kB into a pipe that holds 64 KiB: a plain stream blocks here for ever
    with os.fdopen(reading) as reader, ThreadPoolExecutor(1) as thread:
        all_lines = thread.submit(reader.readlines)
        stream.finish(10.0)
        target.close()
        lines = all_lines.result(10)
    notes = [json.loads(line)["lines"] for line in lines if "log_dropped" in line]
    numbers = [int(line) for line in lines if "log_dropped" not in line]
    assert sum(notes) > 0
    assert sum(notes) + len(numbers) == 5000
    assert numbers == sorted(numbers)


def test_a_closed_pipe_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", closefd=False) as target:
        stream = LossyStream(target)
        stream.write("one\ntwo\n")
        stream.finish()
        assert stream.dropped == 0
        with contextlib.suppress(BrokenPipeError):
            target.close()
    os.close(writing)
