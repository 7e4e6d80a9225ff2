"""A study whose chosen policies trade one account through the tests of two folds, checked by hand."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.support.training.page_words import page_words
from tests.support.training.studies import account_study, hand_study, played, session
from training.report.find import find
from training.report.report import files
from training.study.study import AccountHalt, Baseline, OneAccount, PlayResult, Study, decode, encode


@pytest.fixture(scope="module")
def study() -> Study:
    return account_study()


def test_the_verdict_and_the_figures_are_those_of_the_one_account(study: Study) -> None:
    findings = find(study)
    assert findings.policy.figures.net_return == pytest.approx(0.0692)  # 106.92 / 100 - 1
    assert findings.policy.figures.max_drawdown == pytest.approx(0.1)
    assert findings.policy.figures.trades == 4
    assert findings.verdict.startswith("Earned +6.92 %")
    assert [fold.net_return for fold in findings.folds] == pytest.approx([-0.01, 0.08])  # 99 / 100, 106.92 / 99
    assert findings.folds[1].baselines == {"buy and hold": pytest.approx(0.0)}
    assert findings.baselines[0].figures.net_return == pytest.approx(0.0201)
    assert findings.denials == {"buying_power": 3}
    assert [run.test_return for run in findings.runs] == [0.0, 0.0]  # each seed alone, from cash


def test_random_traders_go_on_with_what_they_have(study: Study) -> None:
    findings = find(study)
    assert findings.random_p == pytest.approx(2 / 4)  # 107.80 beats 106.92, 104 and 75 do not: (1 + 1) / (1 + 3)
    # the first fold left 99: 100 and 150 beat it; in the second 8 % is beaten by 107.8 / 98 alone, not by 4 % or a half
    assert [fold.random_p for fold in findings.folds] == pytest.approx([3 / 4, 2 / 4])
    low, high = findings.random_ranges[1]
    assert 75.0 / 100.0 - 1.0 <= low < high <= 107.8 / 100.0 - 1.0


def test_an_account_on_other_sessions_is_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="the account of all tests was played on other sessions"):
        find(msgspec.structs.replace(study, account=study.account[::-1]))


def test_the_page_tells_of_the_account_and_of_agents_with_a_replay(study: Study) -> None:
    page = files(study, find(study))["report.html"].decode()
    words = page_words(page)
    assert "One account goes through the tests of all folds" in words
    for title in ("Critic loss", "Mean of Q", "Loss of the policy", "Temperature (SAC alone)", "Reward: costs"):
        assert f"{title}: 2 runs thin, their median thick." in words
    assert "for each transition: SAC 0.0020 (after 300 steps), TD3 0.0020 (after 300 steps)." in words
    assert page.count(">TD3</text>") == 7  # of nine plots; TD3 has neither entropy nor temperature
    assert page.count(">SAC</text>") == 9


def halted_study() -> Study:
    """Sessions on accounts of their own; on one account 1,000 -> 900 -> 630, halted, and nothing in the second fold."""
    study = hand_study()
    rows = ((1000.0, -100.0, 2), (900.0, -270.0, 1)), ((630.0, 0.0, 0), (630.0, 0.0, 0))
    folds = [
        PlayResult(
            tuple(
                replace(session(date, earned, trades), capital_usd=began)
                for date, (began, earned, trades) in zip(fold.test, row, strict=True)
            )
        )
        for fold, row in zip(study.folds, rows, strict=True)
    ]
    halt = AccountHalt("2024-01-10", "drawdown", "equity 630 USD, peak 1000 USD, limit 0.3")
    folds[0] = msgspec.structs.replace(folds[0], halts=(halt,))
    passive_sessions = tuple(
        replace(session(date, 10.0), capital_usd=1000.0) for fold in study.folds for date in fold.test
    )
    return msgspec.structs.replace(study, one_account=OneAccount(tuple(folds), "buy and hold", passive_sessions))


def test_the_one_account_stands_below_the_verdict_with_its_reason_and_changes_nothing_else() -> None:
    study = halted_study()
    findings, alone = find(study), find(hand_study())
    assert findings.verdict == alone.verdict
    assert findings.abstract[2] == (
        "One account through all tests: 1,000 USD became 630 (−37.00 %) with 3 trades, largest drawdown "
        "−37.0 %; halted on 2024-01-10 (drawdown) and traded nothing in the 2 sessions after it, where accounts that "
        "begin anew made 2 trades; buy and hold +4.06 %; the figures above are of accounts that begin anew with each "
        "session."
    )
    assert findings.account is not None
    assert alone.account is None
    assert msgspec.structs.replace(findings, account=None, abstract=alone.abstract) == alone
    assert find(decode(encode(study))) == findings
    words = page_words(files(study, findings)["report.html"].decode())
    assert "2024-01-10: drawdown , equity 630 USD, peak 1000 USD, limit 0.3" in words
    assert "The same policies on one account that begins once" in words


def test_figures_that_are_of_one_account_already_are_not_repeated_unless_it_halted(study: Study) -> None:
    findings = find(study)
    assert findings.account is not None
    assert (findings.account.end_usd, findings.account.trades, findings.account.anew) == (106.92, 4, False)
    halt = AccountHalt("2019-01-07", "daily_loss", "lost")
    last = msgspec.structs.replace(study.account[1], halts=(halt,))
    halted = find(msgspec.structs.replace(study, account=(study.account[0], last)))
    assert halted.verdict.startswith("One account through all tests: 100 USD became 107 (+6.92 %) with 4 trades")
    assert "; halted on 2019-01-07 (daily loss). Earned +6.92 %" in halted.verdict


def test_a_part_of_the_policy_stands_in_the_table_and_need_not_be_led(study: Study) -> None:
    """100 -> 120 -> 120, then 120 -> 144 -> 144: the part "SAC alone" earned 44 % where the policy earned 6.92 %."""
    part = played(0, (100.0, 20.0), (120.0, 0.0)), played(1, (120.0, 24.0), (144.0, 0.0))
    alone = find(study)
    findings = find(msgspec.structs.replace(study, baselines=(*study.baselines, Baseline("SAC alone", "", part))))
    assert [line.name for line in findings.baselines] == ["buy and hold", "SAC alone"]
    assert findings.parts == ("SAC alone",)
    assert findings.lead == alone.lead
    assert findings.criteria == alone.criteria
    assert "of its own parts SAC alone (+44.00 %) earned more" in findings.verdict
    assert findings.verdict.startswith("Earned +6.92 %")
    rival = find(msgspec.structs.replace(study, baselines=(*study.baselines, Baseline("equal weight", "", part))))
    assert rival.verdict.startswith("Does not beat equal weight (+44.00 %)")
