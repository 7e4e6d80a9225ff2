"""Signed commands: the mac is what the formula says, and nothing else than a genuine, timely, new command is taken."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import CommandRefused, Event, HaltRequested, ResumeRequested
from daemon.host.time.clock import Clock as HostClock
from daemon.host.time.clock import LeapWatch
from daemon.operator.commands import NAMES
from daemon.operator.remote_commands import Accepted, CommandRefusal, Judge
from daemon.operator.signing import KeyRefused, SignedCommand, canonical, is_genuine, parse_keys, sign_command
from daemon.operator.submitter import Refusals
from tests.support.simulator.lone_loop import LoneLoop

S = 1_000_000_000
NOW_NS = 1_732_600_000 * S
HEX = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
KEYS = parse_keys(f"ops-laptop:{HEX}\nother:{'ab' * 32}")
NONCE = bytes(range(16))


class Clock:
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS - 10 * S

    def __call__(self) -> int:
        return self.now_ns


def _judge() -> Judge:
    """A judge that began to listen ten seconds before now."""
    clock = Clock()
    judge = Judge("paper-1", KEYS, clock)
    clock.now_ns = NOW_NS
    return judge


def _command(**changes: Any) -> SignedCommand:
    fields: dict[str, Any] = {
        "key": KEYS["ops-laptop"],
        "name": "ops-laptop",
        "desk": "paper-1",
        "command": "halt",
        "reason": "the fair is wrong",
        "issued_ns": NOW_NS,
        "lifetime_ns": 30 * S,
        "nonce": NONCE,
    }
    return sign_command(**{**fields, **changes})


def _verdict(judge: Judge, command: SignedCommand, *, retained: bool = False) -> Accepted | CommandRefusal:
    return judge.judge(msgspec.json.encode(command), retained=retained)


def _reason(verdict: Accepted | CommandRefusal) -> str:
    assert isinstance(verdict, CommandRefusal)
    return verdict.reason


def test_openssl_finds_the_same_mac_over_the_written_form() -> None:
    command = _command(reason="Größe: 5 €")
    text = (
        f'["rltrader-command-v1","paper-1","halt","Größe: 5 €",{NOW_NS},{NOW_NS + 30 * S},'
        f'"000102030405060708090a0b0c0d0e0f","ops-laptop"]'
    )
    result = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{HEX}"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    assert canonical(command) == text.encode()
    assert result.stdout.decode().split()[-1] == command.mac


def test_a_genuine_command_becomes_its_event_with_the_key_as_who() -> None:
    verdict = _verdict(_judge(), _command())
    assert isinstance(verdict, Accepted)
    assert verdict.event_at(7) == HaltRequested(7, "operator", "the fair is wrong", "mqtt/ops-laptop")
    assert verdict.wait_ns == 0


def test_a_leap_of_the_host_s_clock_by_eight_hours_refuses_no_command_of_the_true_time() -> None:
    wall, steady = [NOW_NS - 10 * S], [0]
    clock = HostClock.real(lambda: wall[0], lambda: steady[0], LeapWatch())
    judge = Judge("paper-1", KEYS, clock.host_ns)
    wall[0], steady[0] = NOW_NS + 8 * 3600 * S, 10 * S
    assert isinstance(_verdict(judge, _command()), Accepted)
    late = _command(issued_ns=NOW_NS + 8 * 3600 * S, nonce=bytes(16))  # of a sender whose clock leapt too
    assert "in the future" in _reason(_verdict(judge, late))


@given(st.sampled_from(SignedCommand.__struct_fields__), st.integers(0, 2**32))
def test_a_command_that_was_changed_anywhere_is_never_taken(name: str, salt: int) -> None:
    digits = hashlib.sha256(str(salt).encode()).hexdigest()
    command = _command()
    other: dict[str, object] = {
        "v": 2,
        "desk": "paper-2",
        "command": "resume",
        "reason": digits,
        "issued_ns": NOW_NS - 1 - salt % S,
        "expires_ns": NOW_NS + salt % S,
        "nonce": digits[:32],
        "key": "other",
        "mac": digits,
    }
    forgery = {**msgspec.to_builtins(command), name: other[name]}
    assert isinstance(_judge().judge(json.dumps(forgery).encode(), retained=False), CommandRefusal)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"desk": "paper-2"}, "it is for desk 'paper-2', this is 'paper-1'"),
        ({"issued_ns": NOW_NS - 31 * S}, "it expired 1.0 s ago"),
        ({"issued_ns": NOW_NS + 6 * S}, "it was issued 6.0 s in the future"),
        ({"lifetime_ns": 61 * S}, "it is valid for 61.0 s: expected 0 to 60 s"),
        ({"lifetime_ns": -S}, "it is valid for -1.0 s"),
        ({"issued_ns": NOW_NS - 11 * S}, "it was issued before the daemon began to listen"),
        ({"command": "buy"}, "expected one of pause, resume, halt"),
        ({"reason": "  "}, "reason has 0 letters"),
    ],
)
def test_a_genuine_command_out_of_place_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    verdict = _verdict(_judge(), _command(**changes))
    assert isinstance(verdict, CommandRefusal)
    assert verdict.genuine
    assert message in verdict.reason
    assert "key ops-laptop" in verdict.reason


def test_a_repeated_command_is_refused_while_it_lives_and_expired_afterwards() -> None:
    clock = Clock()
    judge = Judge("paper-1", KEYS, clock)
    clock.now_ns = NOW_NS
    assert isinstance(_verdict(judge, _command()), Accepted)
    assert "it came before" in _reason(_verdict(judge, _command()))
    clock.now_ns = NOW_NS + 31 * S
    assert "it expired" in _reason(_verdict(judge, _command()))
    clock.now_ns = NOW_NS + 1 * S  # the host's clock is set back
    assert "it expired" in _reason(_verdict(judge, _command()))


def test_a_command_from_the_future_waits_for_its_time_so_that_no_later_process_takes_it_again() -> None:
    verdict = _verdict(_judge(), _command(issued_ns=NOW_NS + 3 * S))
    assert isinstance(verdict, Accepted)
    assert verdict.wait_ns == 3 * S


def test_a_command_that_an_earlier_process_took_is_refused_although_the_clock_was_set_back_since() -> None:
    clock = Clock()
    first = Judge("paper-1", KEYS, clock)
    clock.now_ns = NOW_NS
    assert isinstance(_verdict(first, _command()), Accepted)
    clock.now_ns = (
        NOW_NS - 3600 * S
    )  # set back by an hour, and the daemon starts again: its journal ends at the command
    second = Judge("paper-1", KEYS, clock, known_ns=NOW_NS)
    clock.now_ns = NOW_NS + 10 * S
    assert "before its journal's end" in _reason(_verdict(second, _command()))
    later = _command(issued_ns=NOW_NS + 9 * S, nonce=bytes(16))
    assert isinstance(_verdict(second, later), Accepted)


def test_a_journal_that_is_ahead_takes_a_reset_of_the_clock_and_after_it_every_command_again() -> None:
    clock = Clock()
    judge = Judge("paper-1", KEYS, clock, known_ns=NOW_NS + 8 * 3600 * S)
    clock.now_ns = NOW_NS + S
    assert "before its journal's end" in _reason(_verdict(judge, _command()))
    reset = _command(command="reset-clock", nonce=bytes(16))
    assert isinstance(_verdict(judge, reset), Accepted)
    assert "it came before" in _reason(_verdict(judge, reset))
    judge.lead_back()
    assert isinstance(_verdict(judge, _command(issued_ns=NOW_NS + S, nonce=bytes(15) + b"a")), Accepted)
    before = _command(issued_ns=NOW_NS, nonce=bytes(15) + b"b")
    assert "before its journal's end" in _reason(_verdict(judge, before))


def test_more_commands_than_can_be_remembered_are_refused() -> None:
    judge = _judge()
    verdicts = [_verdict(judge, _command(nonce=number.to_bytes(16))) for number in range(1001)]
    assert [isinstance(verdict, Accepted) for verdict in verdicts] == [True] * 1000 + [False]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 4000, "cannot be read"),
        (b"x" * 4097, "4097 bytes"),
        (json.dumps({**msgspec.to_builtins(_command()), "reason": "\ud800"}).encode(), "cannot be read"),
        (json.dumps({**msgspec.to_builtins(_command()), "more": 1}).encode(), "cannot be read"),
        (json.dumps({**msgspec.to_builtins(_command()), "issued_ns": 2**70}).encode(), "cannot be read"),
        (json.dumps({**msgspec.to_builtins(_command()), "key": "nobody"}).encode(), "not known"),
        (json.dumps({**msgspec.to_builtins(_command()), "mac": "0" * 64}).encode(), "not that of key ops-laptop"),
    ],
)
def test_what_nobody_signed_is_refused_and_gets_no_answer(payload: bytes, message: str) -> None:
    verdict = _judge().judge(payload, retained=False)
    assert isinstance(verdict, CommandRefusal)
    assert message in verdict.reason
    assert not verdict.genuine


def test_a_retained_command_is_refused_even_when_it_is_genuine() -> None:
    assert "retained" in _reason(_verdict(_judge(), _command(), retained=True))


@given(st.binary(max_size=300))
def test_no_bytes_ever_make_the_judge_raise(payload: bytes) -> None:
    assert isinstance(_judge().judge(payload, retained=False), CommandRefusal)


def test_refusals_are_journaled_once_in_ten_seconds_with_a_count_of_the_others() -> None:
    events: list[Event] = []

    async def play() -> None:
        refusals = Refusals(lambda event_at: events.append(event_at(5)), "signed")
        for reason in ("first", "second", "third"):
            refusals.note(reason)
        assert events == [CommandRefused(5, "signed", "first")]
        await asyncio.sleep(9.9)
        assert len(events) == 1
        await asyncio.sleep(0.2)  # what waited is told without another
        assert events[1:] == [CommandRefused(5, "signed", "third (and 1 others)")]
        await asyncio.sleep(10.0)
        refusals.note("fourth")

    with asyncio.Runner(loop_factory=LoneLoop) as runner:
        runner.run(play())
    assert events[2:] == [CommandRefused(5, "signed", "fourth")]


def test_keys_are_read_from_lines_and_commas() -> None:
    keys = parse_keys(f" a:{HEX} ,b:{HEX}\n\n c : {HEX} \n")
    assert list(keys) == ["a", "b", "c"]
    assert HEX not in repr(keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:0011", "command key 1 has 2 bytes: expected at least 32 bytes"),
        ("a:secretsecret", "command key 1 has no hex digits"),
        ("secretsecret", "command key 1: expected name:hex"),
        (f"a:{HEX},a:{HEX}", "command key 2 has the name of an earlier one"),
    ],
)
def test_bad_keys_are_refused_without_being_shown(text: str, message: str) -> None:
    with pytest.raises(KeyRefused, match=message) as refusal:
        parse_keys(text)
    assert "secret" not in str(refusal.value)
    assert HEX not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_another_key_does_not_make_the_mac() -> None:
    assert is_genuine(_command(), KEYS["ops-laptop"])
    assert not is_genuine(_command(), KEYS["other"])


# --- a key with a scope -----------------------------------------------------------------------------------------------

SCOPED = parse_keys(f"handset:{HEX}:phone\nold:{'ab' * 32}")
ALLOWED = ("status", "pause", "resume", "halt", "flatten", "close SPY", "close SPY 2")


def by_phone(judge: Judge, name: str, **changes: Any) -> Accepted | CommandRefusal:
    command = _command(key=SCOPED["handset"], name="handset", command=name, **changes)
    return judge.judge(msgspec.json.encode(command), channel="signed")


def scoped(done: tuple[str, ...] = ()) -> Judge:
    clock = Clock()
    judge = Judge("paper-1", SCOPED, clock, done_ids=done)
    clock.now_ns = NOW_NS
    return judge


def test_a_phone_s_key_may_sign_what_it_is_for_and_nothing_else_while_an_old_key_keeps_all_it_could() -> None:
    for name in NAMES:
        words = f"{name} SPY" if name == "close" else name
        verdict, is_allowed = by_phone(scoped(), words), words in ALLOWED
        assert isinstance(verdict, Accepted) is is_allowed, words
        if not is_allowed:
            assert "its scope is phone, which has only close, flatten, halt, pause, resume, status" in _reason(verdict)
        old = _command(key=SCOPED["old"], name="old", command=words)
        assert isinstance(_verdict(scoped(), old), Accepted), words


def test_a_phone_s_resume_carries_its_scope_into_the_journal_and_no_other_does() -> None:
    verdict = by_phone(scoped(), "resume")
    assert isinstance(verdict, Accepted)
    event = verdict.event_at(7)
    assert event == ResumeRequested(7, "the fair is wrong", "signed/handset #0001020304050607", scope="phone")
    old = _verdict(scoped(), _command(key=SCOPED["old"], name="old", command="resume"))
    assert isinstance(old, Accepted)
    assert b"scope" not in msgspec.json.encode(old.event_at(7))


def test_one_wish_is_taken_once_however_often_it_is_signed_anew_also_by_the_next_process() -> None:
    judge = scoped()
    assert isinstance(by_phone(judge, "close SPY"), Accepted)
    clock = judge._clock
    assert isinstance(clock, Clock)
    clock.now_ns += 3600 * S
    again = by_phone(judge, "close SPY", issued_ns=clock.now_ns)
    assert "it came before" in _reason(again)
    assert "it came before" in _reason(by_phone(scoped(done=(NONCE.hex()[:16],)), "close SPY"))


def test_a_scope_that_there_is_not_is_no_key_and_is_not_shown() -> None:
    with pytest.raises(KeyRefused, match="has a scope that there is not: expected phone") as error:
        parse_keys(f"handset:{HEX}:s3cret")
    assert "s3cret" not in str(error.value)
    assert HEX not in str(error.value)
