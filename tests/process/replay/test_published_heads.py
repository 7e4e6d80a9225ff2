"""A journal that was forged whole is found by the heads that were published before."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from daemon.host.ed25519 import keygen
from daemon.journal.journal import FILE
from daemon.journal.published import compare, heads_in
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from tests.support.desks.desk_run import (
    command,
    environment,
    execute,
    log_of,
    rltraderctl,
    rltraderd,
    table,
    tape_rows,
    verified,
    write_tape,
)


@pytest.fixture(scope="module")
def state_and_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A state directory, and what its desk logged."""
    folder = tmp_path_factory.mktemp("ran")
    tape = write_tape(folder / "tape.csv", tape_rows(2, 75))
    run = rltraderd("--dry-run", "--bars", tape, "--state-dir", folder / "state", cwd=folder)
    assert run.returncode == 0, run.stderr
    return folder / "state", run.stderr


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    """What the file's writer can make: the same desk, other prices in its last minutes, all hashes new."""
    rows = tape_rows(2, 75)
    for at in range(len(rows) - 10, len(rows)):
        symbol, moment, *prices, volume = rows[at].split(",")
        rows[at] = ",".join([symbol, moment, *(f"{float(price) * 1.001:.2f}" for price in prices), volume])
    tape = write_tape(tmp_path / "tape.csv", rows)
    assert rltraderd("--dry-run", "--bars", tape, "--state-dir", tmp_path / "forged", cwd=tmp_path).returncode == 0
    return tmp_path / "forged"


def test_the_log_of_a_run_names_the_head_that_the_journal_ends_with(
    state_and_log: tuple[Path, str], tmp_path: Path
) -> None:
    state, log = state_and_log
    (line,) = [line for line in log_of(log) if line["event"] == "chain_head"]
    last = table(state, "events")[-1]
    assert line["row"] == last[0]
    assert line["head"] == [row[6] for row in table(state, "events") if row[1] is not None][-1].hex()
    (tmp_path / "journald.log").write_text(log)
    result = rltraderctl("verify", "--state-dir", state, "--against", tmp_path / "journald.log", cwd=tmp_path)
    assert (result.returncode, "published heads: 1 agree" in result.stdout) == (0, True), result.stdout + result.stderr
    result = rltraderctl("verify", "--state-dir", state, "--against", f"{line['row']}:{line['head']}", cwd=tmp_path)
    assert result.returncode == 0


def test_a_journal_that_was_forged_whole_verifies_alone_and_not_against_what_was_published(
    state_and_log: tuple[Path, str], forged: Path, tmp_path: Path
) -> None:
    assert verified(forged).difference == ""  # its own hashes agree: the chain alone proves no author
    (tmp_path / "journald.log").write_text(state_and_log[1])
    result = rltraderctl("verify", "--state-dir", forged, "--against", tmp_path / "journald.log", cwd=tmp_path)
    assert result.returncode == 1
    assert "DIFFERENT: " in result.stdout


def test_the_first_forged_row_is_between_the_heads_that_agree_and_the_one_that_does_not(
    state_and_log: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(state_and_log[0], tmp_path / "state")
    reader = JournalReader(state_and_log[0] / FILE)
    heads = [f"{row}:{reader.chain_head(row).hex()}" for row in (100, 200, 300)]
    reader.close()
    (tmp_path / "published").write_text("\n".join(heads))
    assert compare(tmp_path / "state" / FILE, str(tmp_path / "published")) == (3, 0, "")
    chained = next(row[0] for row in table(state_and_log[0], "events") if row[0] >= 250 and row[1] is not None)
    execute(tmp_path / "state", "UPDATE events SET hash = zeroblob(32) WHERE id BETWEEN ? AND 300", chained)
    result = compare(tmp_path / "state" / FILE, str(tmp_path / "published"))
    assert result.agree == 2
    assert result.difference.startswith("at row 300 the head")


def test_rows_that_were_published_and_are_gone_are_found(state_and_log: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(state_and_log[0], tmp_path / "state")
    last = table(state_and_log[0], "events")[-1][0]
    reader = JournalReader(state_and_log[0] / FILE)
    published = f"{last}:{reader.chain_head(last).hex()}"
    reader.close()
    execute(tmp_path / "state", "DELETE FROM events WHERE id > ?", last - 5)
    result = compare(tmp_path / "state" / FILE, published)
    assert result.difference == f"row {last} was published, and the journal ends at row {last - 5}"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"row": 7, "head": "ab" * 32, "event": "chain_head"}),
        json.dumps({"event": "chain_head", "head": "ab" * 32, "row": 7}),
        "Nov 21 host rltraderd[9]: chain_head head=" + "ab" * 32 + " row=7",
        json.dumps({"date": "2024-07-01", "chain": {"row": 7, "head": "ab" * 32}}, indent=1),
        "7:" + "ab" * 32,
    ],
)
def test_a_head_is_found_in_a_log_in_a_report_and_alone(text: str) -> None:
    assert heads_in(f"other lines\n{text}\nmore") == [(7, "ab" * 32)]


def test_a_text_without_a_head_is_refused(state_and_log: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("nothing here")
    with pytest.raises(JournalError, match="no head stands there"):
        compare(state_and_log[0] / FILE, str(tmp_path / "empty.log"))
    with pytest.raises(JournalError, match="no file to read"):
        compare(state_and_log[0] / FILE, str(tmp_path / "none.log"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public one lies beside it in `public`, as `models keygen` prints it."""
    (tmp_path / "public").write_text(f'public_key = "{keygen(tmp_path / "key.pem")}"\n')
    return tmp_path / "key.pem"


def sign(head: str, key: Path) -> subprocess.CompletedProcess[str]:
    """`rltraderctl heads sign` of this ROW:HEAD, to the file `signed` beside the key."""
    line = command("daemon.cli.ctl", "heads", "sign", "--key", key, "--to", key.with_name("signed"))
    return subprocess.run(
        line, input=head, cwd=key.parent, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def against_signed(state: Path, folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return rltraderctl("verify", "--state-dir", state, "--against", folder / "signed", *more, cwd=folder)


def test_a_signed_head_is_what_another_library_calls_signed_and_verify_takes_it(
    state_and_log: tuple[Path, str], key: Path
) -> None:
    newest = rltraderctl("heads", "newest", "--state-dir", state_and_log[0], cwd=key.parent).stdout.strip()
    for _ in range(2):
        result = sign(newest, key)
        assert result.returncode == 0, result.stderr
    signed = key.with_name("signed")
    assert signed.stat().st_mode & 0o777 == 0o644
    line = json.loads(signed.read_text().splitlines()[1])
    assert f"{line['row']}:{line['head']}" == newest
    public = base64.b64decode(key.with_name("public").read_text().split('"')[1])
    text = b"rltrader chain head " + newest.encode() + b"\n"
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(line["signature"]), text)
    result = against_signed(state_and_log[0], key.parent, "--public-key", key.with_name("public"))
    assert (result.returncode, "published heads: 2 agree" in result.stdout) == (0, True), result.stdout + result.stderr


def test_a_forged_journal_has_not_the_head_that_was_signed(
    state_and_log: tuple[Path, str], forged: Path, key: Path
) -> None:
    sign(rltraderctl("heads", "newest", "--state-dir", state_and_log[0], cwd=key.parent).stdout, key)
    result = against_signed(forged, key.parent, "--public-key", key.with_name("public"))
    assert (result.returncode, "DIFFERENT: " in result.stdout) == (1, True), result.stderr


def test_a_head_that_is_unsigned_or_signed_by_another_key_or_for_another_row_is_refused(
    state_and_log: tuple[Path, str], key: Path, tmp_path: Path
) -> None:
    newest = rltraderctl("heads", "newest", "--state-dir", state_and_log[0], cwd=tmp_path).stdout.strip()
    sign(newest, key)
    signed = (tmp_path / "signed").read_text()
    row, head = newest.split(":")
    (tmp_path / "other").write_text(keygen(tmp_path / "other.pem"))
    for text, public in (
        (signed + newest + "\n", "public"),  # a line without a signature
        (signed + json.dumps({"row": int(row), "head": head}), "public"),
        (signed, "other"),
        (signed.replace(f'"row":{row}', f'"row":{int(row) - 1}'), "public"),
    ):
        (tmp_path / "signed").write_text(text)
        result = against_signed(state_and_log[0], tmp_path, "--public-key", tmp_path / public)
        assert (result.returncode, "is no head signed by" in result.stderr) == (2, True), result.stdout + result.stderr


def test_a_key_file_without_a_key_and_a_key_without_a_file_of_heads_are_refused(
    state_and_log: tuple[Path, str], key: Path, tmp_path: Path
) -> None:
    (tmp_path / "signed").write_text("")
    result = against_signed(state_and_log[0], tmp_path, "--public-key", tmp_path / "signed")
    assert (result.returncode, "no public key stands there" in result.stderr) == (2, True), result.stderr
    result = against_signed(state_and_log[0], tmp_path, "--public-key", tmp_path / "none")
    assert (result.returncode, "cannot be read" in result.stderr) == (2, True), result.stderr
    result = rltraderctl("verify", "--state-dir", state_and_log[0], "--public-key", tmp_path / "public", cwd=tmp_path)
    assert (result.returncode, "--public-key without --against" in result.stderr) == (2, True), result.stderr


def test_what_is_no_head_no_private_key_or_no_plain_file_is_not_signed(key: Path, tmp_path: Path) -> None:
    head = "7:" + "ab" * 32
    assert (sign("nothing", key).returncode, (tmp_path / "signed").exists()) == (2, False)
    assert (sign(f"{head} {head}", key).returncode, (tmp_path / "signed").exists()) == (2, False)
    key.chmod(0o644)
    result = sign(head, key)
    assert (result.returncode, "others may use this key" in result.stderr) == (2, True), result.stderr
    key.chmod(0o600)
    (tmp_path / "elsewhere").touch()
    (tmp_path / "signed").symlink_to(tmp_path / "elsewhere")
    result = sign(head, key)
    assert (result.returncode, "cannot be written" in result.stderr) == (2, True), result.stderr
    assert (tmp_path / "elsewhere").read_text() == ""
