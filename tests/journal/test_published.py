"""Published heads against a journal's file: those of the file itself, of other files, and beyond its end.

The file goes on from another one after row 10: its rows are 11 to 13, the head at a row is the row's hash.
"""

from __future__ import annotations

import resource
from pathlib import Path

import msgspec
import pytest

from daemon.core.events import ClockTicked
from daemon.host.ed25519 import keygen
from daemon.journal.journal import FILE, Journal
from daemon.journal.published import HeadComparison, check_signed, compare, sign_head
from daemon.journal.rows import Base, CommitBatch, HashChain

BEFORE = "ab" * 32  # the head at row 10
OTHER = "cd" * 32


@pytest.fixture
def heads(tmp_path: Path) -> dict[int, str]:
    """The heads of the rows in the journal of `tmp_path`."""
    base = msgspec.json.encode(Base(10, 10, BEFORE, "")).decode()
    journal, chain = Journal.create(tmp_path / FILE, {"base": base}), HashChain(11, bytes.fromhex(BEFORE))
    batch = CommitBatch()
    batch.entries = [chain.entry(seq, ClockTicked(seq), "[]") for seq in (11, 12, 13)]
    journal.commit(batch)
    journal.close()
    return {10: BEFORE} | {entry.id: entry.hash.hex() for entry in batch.entries}


def compared(folder: Path, *published: tuple[int, str], newest: bool = True) -> HeadComparison:
    (folder / "published").write_text("\n".join(f"{row}:{head}" for row, head in published))
    return compare(folder / FILE, str(folder / "published"), newest=newest)


def test_heads_from_the_row_before_the_file_to_its_end_agree(heads: dict[int, str], tmp_path: Path) -> None:
    assert compared(tmp_path, *heads.items()) == HeadComparison(4, 0, "")


def test_heads_of_other_files_are_counted_and_those_after_them_are_compared(
    heads: dict[int, str], tmp_path: Path
) -> None:
    assert compared(tmp_path, (9, OTHER), (12, heads[12])) == HeadComparison(1, 1, "")
    assert compared(tmp_path, (9, OTHER), (14, OTHER), (12, heads[12]), newest=False) == HeadComparison(1, 2, "")


@pytest.mark.parametrize("row", [10, 11, 13])
def test_a_head_that_is_another_one_in_this_file_is_a_difference(
    row: int, heads: dict[int, str], tmp_path: Path
) -> None:
    text = f"at row {row} the head {OTHER} was published, the journal has another"
    assert compared(tmp_path, (12, heads[12]), (8, OTHER), (row, OTHER), (9, OTHER)) == HeadComparison(1, 1, text)


def test_a_head_beyond_the_end_of_the_newest_file_is_a_difference(heads: dict[int, str], tmp_path: Path) -> None:
    text = "row 14 was published, and the journal ends at row 13"
    assert compared(tmp_path, (13, heads[13]), (14, OTHER)) == HeadComparison(1, 0, text)


def test_a_disk_that_is_full_leaves_no_part_of_a_signed_head(tmp_path: Path) -> None:
    signed, public = tmp_path / "signed", tmp_path / "public"
    public.write_text(keygen(tmp_path / "key"))
    sign_head(1, BEFORE, tmp_path / "key", signed)
    former, limits = signed.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(former) + 20, limits[1]))  # as few bytes are left on the disk
    try:
        with pytest.raises(OSError, match="File too large"):
            sign_head(2, OTHER, tmp_path / "key", signed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert signed.read_bytes() == former
    sign_head(3, OTHER, tmp_path / "key", signed)
    check_signed(str(signed), public)
    assert signed.read_text().count("\n") == 2
