"""What a report's words mean and where its figures end, for option desks and for desks of shares.

Words only. Cells are HTML already; nothing here comes from a study.
"""

from __future__ import annotations

Words = tuple[tuple[str, str], ...]

OF_OPTIONS: Words = (
    (
        "session",
        "One trading day, 9:30 to 16:00 in New York. Each begins flat, on an account of its own with the full capital.",
    ),
    ("net return", "Profit after spread and fees / capital, added up over sessions. Nothing compounds."),
    (
        "drawdown",
        (
            "Largest fall of the running sum of returns from its highest point so far, which starts at zero. It is "
            "measured at the ends of sessions; within one it may be deeper."
        ),
    ),
    ("turnover", "Premium paid for all buys / capital, a session."),
    ("time in the market", "Minutes with a position / minutes in which one could be held."),
    (
        "hit rates",
        "Sessions that earned / sessions that earned or lost; trades that earned after fees / trades.",
    ),
    (
        "entropy",
        "How undecided the policy is, in nats. ln 6 = 1.79 is pure chance among six actions, 0 is certainty.",
    ),
)

OF_SHARES: Words = (
    ("session", "One trading day. One account goes through all sessions of a span; a session is from close to close."),
    ("net return", "Last equity / first equity − 1, after costs. Everything compounds."),
    ("annual return", "(1 + net return)<sup>252 / sessions</sup> − 1"),
    (
        "drawdown",
        (
            "Largest fall of the equity from its highest point so far, as a part of that. It is measured at closes; "
            "within a session it may be deeper."
        ),
    ),
    ("trades", "Orders that were filled."),
    ("turnover", "Value of all shares bought and sold / equity, a session."),
    ("time in the market", "Mean part of the equity that is in shares at the close."),
    ("hit rate", "Sessions that earned / sessions that earned or lost."),
    (
        "entropy",
        (
            "How undecided the policy is, in nats: of 16 portfolios at most ln 16 = 2.77; of continuous actions a "
            "measure of the noise that explores, below zero once it is small."
        ),
    ),
)

COMMON_LIMITS = (
    "Orders do not move the market, and nobody trades against them.",
    (
        "Whoever reads this page has opened the test sessions. If it leads to another attempt, that attempt is one "
        "more trial, and the next report counts it."
    ),
    "The past is one path. Another regime may pay or punish what this one did not.",
)

LIMITS_OF_OPTIONS = (
    (
        "Option prices are Black–Scholes around the bars of the underlying, with modelled spreads. No option quote "
        "was recorded, so real prices, smiles and jumps of volatility are missing."
    ),
    (
        "A fold's test is short, about 20 sessions as a rule. Only a very large edge can be told from luck in it; how "
        "large stands above."
    ),
    "One symbol that still exists was chosen with hindsight. There is no basket, so survivorship is not corrected for.",
)

LIMITS_OF_SHARES = (
    (
        "Prices are adjusted for splits and dividends: dividends are reinvested without tax, and an early share is "
        "worth less here than it cost then, the less the more its company paid and split since, which nobody knew. "
        "Where orders are sized in shares, that decides how much money they move."
    ),
    (
        "Every order fills whole at the open (buys at 0.02 % more), for 0.1 % of its value. Auctions that print "
        "elsewhere, partial fills and halts are missing."
    ),
    (
        "Cash earns nothing, and ratios are over zero, not over bills. Whoever owns shares has such a ratio from the "
        "market alone, and with it the PSR, the deflated ratio, the SPA and a profit at higher costs or one bar late: "
        "what a policy adds shows only in its differences from the baselines and against random traders."
    ),
    (
        "Two or three years hold few independent bets of a desk that trades once a day; how large an edge would have "
        "to be stands above."
    ),
)


def meanings(*, compounds: bool) -> str:
    """HTML: the words that differ, as terms of a list."""
    return "\n".join(f"<dt>{word}</dt><dd>{text}</dd>" for word, text in (OF_SHARES if compounds else OF_OPTIONS))


def limits(survivorship: str, *, compounds: bool) -> str:
    """HTML: the items of the list of limits; `survivorship` is escaped by the caller."""
    own = LIMITS_OF_SHARES if compounds else LIMITS_OF_OPTIONS
    items = (own[0], COMMON_LIMITS[0], *own[1:], *([survivorship] if survivorship else []), *COMMON_LIMITS[1:])
    return "\n".join(f"<li>{item}</li>" for item in items)
