"""What is commanded of a stopped desk after a panic comes after the panic in its journal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.app.offline.command import command_offline
from daemon.cli import ctl
from daemon.core.events import AcceptBrokerRequested, PanicNoticed, ResumeRequested, RunStarted
from daemon.core.limits import Trading
from daemon.engine.recover import code_digest, libraries, machine_of
from daemon.host.panic_marker import MARKER, leave
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch, HashChain, WriteFailed, chain_start, encode_effects
from tests.support.desks.desk_run import verified

META = {"mode": "paper", "account": "paper", "strategy": "option_scalper", "feed": "sip", "epoch": "0123456789"}


def stopped_desk(path: Path) -> None:
    """The journal of a desk with a broker outside that was started and stopped."""
    journal = Journal.create(path / FILE, META)
    machine = machine_of(journal.reader())
    start = RunStarted(
        1, "paper", "paper", "option_scalper", META["epoch"], code_digest(), "sip", Trading(), libraries=libraries()
    )
    step = machine.apply(start)
    chain, batch = HashChain(1, chain_start(journal.reader().meta())), CommitBatch()
    batch.entries.append(chain.entry(step.state.seq, start, encode_effects(step.effects)))
    journal.commit(batch)
    journal.close()


def kinds(path: Path) -> list[str]:
    reader = JournalReader(path / FILE)
    try:
        return [entry.kind for entry in reader.entries()]
    finally:
        reader.close()


def test_a_panic_of_a_stopped_desk_is_journaled_before_what_is_commanded_next(tmp_path: Path) -> None:
    stopped_desk(tmp_path)
    leave(tmp_path, "ann")
    state, _ = command_offline(tmp_path, lambda now_ns: ResumeRequested(now_ns, "go on", "ann"))
    assert (state.risk.halt is not None, state.broker.stood_down) == (True, True)  # refused: nothing was accepted
    assert not (tmp_path / MARKER).exists()
    command_offline(tmp_path, lambda now_ns: AcceptBrokerRequested(now_ns, "settled", "ann"))
    state, _ = command_offline(tmp_path, lambda now_ns: ResumeRequested(now_ns, "go on", "ann"))
    assert (state.risk.halt, state.broker.stood_down) == (None, True)  # until the broker has reported
    commanded = [ResumeRequested, AcceptBrokerRequested, ResumeRequested]
    assert kinds(tmp_path) == [kind.__name__ for kind in (RunStarted, PanicNoticed, *commanded)]
    assert verified(tmp_path).difference == ""


@pytest.mark.parametrize(("word", "is_named"), [("flatten", True), ("halt", False)])
def test_an_exit_that_no_disk_takes_names_the_panic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str, is_named: bool
) -> None:
    def full(*_: object) -> None:
        raise WriteFailed("the disk is full")

    stopped_desk(tmp_path)
    monkeypatch.setattr(Journal, "commit", full)
    assert ctl.main([word, "--state-dir", str(tmp_path), "--reason", "out"]) == 2
    output = capsys.readouterr().err
    assert ("the disk is full" in output, "rltraderctl panic closes everything" in output) == (True, is_named)
    assert kinds(tmp_path) == [RunStarted.__name__]


@pytest.mark.parametrize(
    ("word", "code", "message"), [("halt", 0, "the halt (event 1) is done; what came of it"), ("close SPY", 1, "")]
)
def test_what_a_full_disk_keeps_from_being_printed_is_done_all_the_same(
    tmp_path: Path, word: str, code: int, message: str
) -> None:
    stopped_desk(tmp_path)
    line = [sys.executable, "-m", "daemon.cli.ctl", *word.split(), "--state-dir", str(tmp_path), "--reason", "x"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, message in result.stderr) == (code, True)
    read_end, write_end = os.pipe()
    os.close(read_end)  # a reader that has seen enough
    with os.fdopen(write_end, "w") as pipe:
        assert subprocess.run(line, stdout=pipe, stderr=subprocess.PIPE, check=False).returncode == code
    assert len(kinds(tmp_path)) == 3
