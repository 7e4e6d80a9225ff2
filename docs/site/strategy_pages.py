"""What each strategy's page has from the code: `.venv/bin/python docs/site/strategy_pages.py` writes it into the pages.

Of docs/strategies/NAME.md the part between `BEGIN` and `END` is made here, from the shipped versions' reports, spec,
declaration, features, networks, rewards and the desk's costs. What is around it is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from daemon.core.limits import ALL, PROCEEDS, SHARES, SHARES_SOLD, SOLD, Paper
from daemon.core.paper.fees import CHARGED
from daemon.core.strategy_rules import trading_for
from daemon.models.pointer import CURRENT
from daemon.models.store import versions
from strategies import daily_rebalancer, forecast_ensemble, option_scalper, regime_switcher
from strategies.forecast_ensemble import features as forecast_features
from strategies.golden import contract_hash
from strategies.kit.contract import Spec
from strategies.kit.manifest import MANIFEST_FILE, decode
from strategies.online_dqn.state_vector import shipped
from strategies.registry import STRATEGIES, entry, strategy
from training.desks.daily.markets import rebalancer, regime
from training.desks.daily.networks.rebalancer import FEATURES, LOG_STD, UNITS, RebalancerActorCritic, SharedActorCritic
from training.desks.daily.networks.regime import RegimeActorCritic
from training.desks.forecast import graph, market
from training.desks.online.network import COLD_PRESETS, SCALE, network_of
from training.desks.scalper import market as options
from training.desks.scalper.network import IDENTITY, ActorCritic, LstmActorCritic, parameter_count
from training.forecast.network import FeatureScaling, ForecastNet, Frozen, Sizes
from training.online.reward import DEFAULT
from training.rl.layers import Scaling

PAGES = Path(__file__).resolve().parents[1] / "strategies"
STORE = PAGES.parents[1] / "onnx_models"
BEGIN, END = "<!-- from the code: docs/site/strategy_pages.py -->", "<!-- end -->"


def made(name: str, page: str) -> str:
    """Return the page of a strategy with its part from the code as the code is now. ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{name}.md lacks {BEGIN} or {END}: put both where the part from the code belongs")
    return f"{before}{BEGIN}\n\n{from_code(name)}\n\n{END}{after}"


def from_code(name: str) -> str:
    """Return the part from the code."""
    spec = strategy(name).spec
    parts = (
        ("What the reports of its shipped versions say", _verdicts(name)),
        ("What it sees", "\n\n".join([_table(("", ""), _frame(spec)), _SEES[name](), _declared(name, _OF_SEEING)])),
        (
            "What it answers",
            "\n\n".join(filter(None, [_answers(spec), _declared(name, _OF_ANSWERING), _regimes(name)])),
        ),
        ("The network", _table(("part", "parameters"), [(part, f"{count:,}") for part, count in _NETWORKS[name]()])),
        ("What it earns in training", _EARNS[name]()),
        ("What it pays", _table(("", ""), _costs(name))),
    )
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts)


def _verdicts(name: str) -> str:
    current = (STORE / name / CURRENT).read_text().strip()
    lines = []
    for version in sorted(versions(STORE, name), key=lambda one: one != current):
        manifest = decode((STORE / name / version / MANIFEST_FILE).read_bytes())
        facts = ["active"] * (version == current)
        facts += [f"tested with `{key} = {value}`" for key, value in manifest.desk.items()]
        words = f" ({', '.join(facts)})" if facts else ""
        lines.append(f"- `{version}`{words}: {manifest.note}")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _frame(spec: Spec) -> list[tuple[str, str]]:
    shape = " x ".join(str(side) for side in spec.observation_shape)
    rows = "a row for each symbol" if spec.rows_are_symbols else "one observation for all symbols"
    decides = "once a session" if spec.decides == "session" else f"at each bar of {spec.bar_interval_s} s"
    return [
        ("decides", decides),
        ("symbols", f"{len(spec.symbols)}: {', '.join(spec.symbols)}"),
        ("observation", f"({shape}) {spec.dtype}, {rows}"),
        ("bars before the first one", f"{spec.history_bars}; shown: the newest {spec.window}"),
        ("contract hash", f"`{contract_hash(strategy(spec.name))}`"),
    ]


_OF_ANSWERING = ("resolution", "kept_percent", "basket", "answer", "labels", "heads", "hidden")
_OF_SEEING = (
    "rows", "bars", "warm", "history", "unusable", "scale", "portfolio", "weekday", "tradable", "account", "market",
    "weights", "indicators", "row", "masked",
)  # fmt: skip


def _declared(name: str, keys: Sequence[str]) -> str:
    """The declaration's words under these keys, as the contract hash has them."""
    told = {key: entry(name).declaration[key] for key in keys if key in entry(name).declaration}
    rows = [(f"`{key}`", _words(value)) for key, value in told.items() if key != "features"]
    return _table(("declared", "as the contract hash has it"), rows) if rows else ""


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "; ".join(_words(one) for one in value)
    return str(value)


def _listed(known: Sequence[Any]) -> str:
    return _table(
        ("#", "feature", "definition"),
        [(place, f"`{one.name}`", one.definition) for place, one in enumerate(known)],
    )


def _of_stocks() -> str:
    spec, r = daily_rebalancer.SPEC, daily_rebalancer
    names = ", ".join(r.INDICATORS)
    parts = (
        (r.CLOSES, "close of each stock, USD"),
        (r.INDICATOR_COLUMNS, f"{len(r.INDICATORS)} indicators of the first stock, then of the second, ...: {names}"),
        (slice(r.CASH, r.CASH + 1), "cash, USD"),
        (slice(r.VALUE, r.VALUE + 1), "portfolio value, USD"),
        (r.HOLDINGS, "shares of each stock"),
        (slice(r.WEEKDAY, r.WEEKDAY + 1), "weekday of the session that is decided for, 0 to 4"),
        (r.TRADABLE, "1 where the stock is tradable, else 0"),
    )
    assert sum(part.stop - part.start for part, _ in parts) == spec.observation_shape[0]
    return _table(("columns", "what"), [(f"[{part.start}:{part.stop}]", words) for part, words in parts])


def _of_funds() -> str:
    r = regime_switcher
    named, at = r.SPEC.features, r.layout(len(r.SYMBOLS))
    singles = (slice(place, place + 1) for place in (at.portfolio_return, at.drawdown))
    parts = (at.prices, at.returns, at.volatilities, at.weights, *singles, slice(at.used, r.WIDTH))
    rows = [(f"[{p.start}:{p.stop}]", ", ".join(named[p]) if p.stop - p.start < 9 else "reserved, 0") for p in parts]
    return _table(("columns", "what"), rows)


def _of_symbols() -> str:
    known = forecast_features.FEATURES
    seen = ", ".join(f"`{name}`" for name in graph.SEEN)
    account = ", ".join(f"`{name}`" for name in forecast_ensemble.ACCOUNT)
    return (
        f"{forecast_features.WINDOW} rows of these {len(known)} features, oldest first, then {account}:\n\n"
        f"{_listed(known)}\n\nThe forecaster sees all rows. The agents see {graph.AGENT_WIDTH} numbers: of the newest "
        f"row {len(graph.SEEN)} features ({seen}), the three probabilities, the confidence, and the first "
        f"{market.ACCOUNT} numbers of the account (weight, unrealised return, age, cash share)."
    )


def _of_indicators() -> str:
    config, spec = shipped(), strategy("online_dqn").spec
    rows = [
        (f"`{name}`", one.scale.by, f"{one.scale.center:g}", f"{one.scale.divide_by:g}")
        for name, one in zip(spec.features, config.indicators, strict=False)
    ]
    return (
        f"{config.window} rows of these, clipped to ±{config.scaling.clip:g}, then the portfolio's "
        f"{', '.join(f'`{name}`' for name in config.portfolio)}:\n\n"
        f"{_table(('indicator', 'by', 'center', 'divided by'), rows)}"
    )


_SEES: dict[str, Callable[[], str]] = {
    "option_scalper": lambda: _listed(option_scalper.FEATURES),
    "daily_rebalancer": _of_stocks,
    "regime_switcher": _of_funds,
    "forecast_ensemble": _of_symbols,
    "online_dqn": _of_indicators,
}


def _answers(spec: Spec) -> str:
    if getattr(spec, "continuous", False):
        count = "one for each symbol" if len(spec.actions) > 1 or spec.rows_are_symbols else "one"
        rows = [("answer", f"a number in [-1, 1], {count}")]
    else:
        rows = [("answer", f"{len(spec.actions)} numbers: {', '.join(f'{n} {a}' for n, a in enumerate(spec.actions))}")]
        rows += [] if spec.rows_are_symbols else [("temperature of the softmax", f"{spec.temperature:g}")]
    if spec.recurrent_shape:
        rows.append(("memory", f"{spec.recurrent_shape[0]} numbers, carried from decision to decision, journaled"))
    rows += [(f"head `{head.name}`", head.meaning) for head in spec.heads]
    return _table(("", ""), rows)


def _regimes(name: str) -> str:
    if name != regime_switcher.SPEC.name:
        return ""
    rows = []
    for place, (regime_name, weights) in enumerate(regime_switcher.REGIMES):
        shares: tuple[str, ...] = ("as it is",) * 4
        if isinstance(weights, tuple):
            shares = tuple(_percent(weight) for weight in (*weights, 1.0 - sum(weights)))
        rows.append((place, regime_name, *shares))
    return _table(("#", "regime", *regime_switcher.SYMBOLS, "cash"), rows)


def _percent(share: float, digits: int = 1) -> str:
    return f"{share * 100.0:.{digits}f} %"


def _count(module: nn.Module) -> int:
    return parameter_count(module)


def _of_forecast() -> list[tuple[str, int]]:
    net = ForecastNet(Sizes(), Frozen(FeatureScaling.none(Sizes().features)), 0)
    return [("the forecaster: Conv1d 32 and 64, LSTM 256, attention, 3 classes", _count(net))]


def _of_rebalancer() -> list[tuple[str, int]]:
    net = RebalancerActorCritic(Scaling.identity(daily_rebalancer.WIDTH), 0)
    own = net.log_std.numel()
    shared = SharedActorCritic(Scaling.identity(FEATURES), 0, daily_rebalancer.STOCKS)
    each = f"{FEATURES} → {UNITS} → {UNITS} → 1 of each stock, beside the mean of all"
    return [
        ("`mlp`: actor 803 → 64 → 64 → 50 and critic 803 → 64 → 64 → 1", _count(net) - own),
        (f"`mlp`: logarithms of the deviations, which begin at {LOG_STD}", own),
        (f"`shared`: actor and critic {each}, for 5 to 100 stocks, and one logarithm", _count(shared)),
    ]


_NETWORKS: dict[str, Callable[[], list[tuple[str, int]]]] = {
    "option_scalper": lambda: [
        ("feed-forward 460 → 256 → 128 → 64, actor and critic", _count(ActorCritic(IDENTITY, 0))),
        ("recurrent: LSTM 64, 2 layers, over the 20 rows; actor and critic", _count(LstmActorCritic(IDENTITY, 0))),
    ],
    "daily_rebalancer": _of_rebalancer,
    "regime_switcher": lambda: [("64 → 128, LayerNorm, GRU 128, 16 logits and a value", _count(RegimeActorCritic(0)))],
    "forecast_ensemble": _of_forecast,
    "online_dqn": lambda: [
        (
            "dueling Q network with its heads, of the preset `cold`",
            _count(network_of(shipped(), COLD_PRESETS["cold"], 0)),
        )
    ],
}
_EARNS: dict[str, Callable[[], str]] = {
    "option_scalper": lambda: (
        f"`{options.REWARDS[0]}` (the default): {options.PNL_WEIGHT:g} x change of equity / capital + discount x "
        f"Φ(after) - Φ(before), Φ = {options.SHARPE_WEIGHT:g} x Sharpe + {options.WIN_RATE_WEIGHT:g} x win rate - "
        f"{options.DRAWDOWN_WEIGHT:g} x drawdown, 0 at the end. Sharpe and win rate are of the last {options.TRADES} "
        f"closed trades (Sharpe 0 below {options.TRADES_MIN}, within ±{options.SHARPE_MAX:g}). `{options.REWARDS[1]}`: "
        f"{options.PNL_WEIGHT:g} x realised P&L / capital + Φ(after). Costs are in equity and P&L."
    ),
    "daily_rebalancer": lambda: (
        f"`mlp`: change of the portfolio's value x {rebalancer.REWARD:g}. Costs leave the cash, so they are in that "
        "change, once. `shared`: of each stock its own part of that change, over an equal part of the value, x "
        f"{rebalancer.EACH:g}. Where a unit is a part of the equity, the change is on the contract's capital."
    ),
    "regime_switcher": lambda: (
        "The portfolio's gross return less that of equal weights of the three funds, less "
        f"{regime.REWARD_COST:g} x turnover; turnover is the sum of the changes of weight of the three, without sign, "
        f"against the weights as they drifted. Episodes of {regime_switcher.EPISODE} sessions; their end is a time "
        "limit."
    ),
    "forecast_ensemble": lambda: (
        "The forecaster: cross-entropy of triple-barrier labels with weights of the classes. The agents, of each "
        "symbol: action x market return - cost + alpha x confidence x bonus where the predicted class came, in parts "
        f"of what one symbol may weigh; the bonus is {market.BONUS:g}, and no action changes it."
    ),
    "online_dqn": lambda: (
        "The gain of a symbol after costs, as a share of the equity at the decision: "
        f"{', '.join(f'the term `{term}` with weight {weight:g}' for term, weight in DEFAULT.items())}. Inside the "
        f"learner times {SCALE:g}. Other terms are the trainer's configuration."
    ),
}


def _fees(paper: Paper, *kinds: str) -> str:
    """Return the fees that are charged on these, with their rates."""
    return "; ".join(
        f"{', '.join(f'{fee.short} {getattr(paper, key)}' for key, fee in CHARGED[charged].items())} of {charged}"
        for charged in kinds
    )


def _costs(name: str) -> list[tuple[str, str]]:
    rules = trading_for(name)
    paper = rules.paper
    if strategy(name).spec.holds == "option":
        fees = _fees(paper, ALL, SOLD, PROCEEDS)
        volatility = f"of {paper.volatility_sessions} sessions x {paper.volatility_premium:g}"
        return [
            ("fees, USD or a share", fees),
            ("half-spread", f"{_percent(paper.half_spread)} of the mid, at least {paper.half_spread_min_usd} USD"),
            ("volatility of prices", f"{volatility}, at least {_percent(paper.volatility_floor)}, fixed at the open"),
            ("paper cash, USD", f"{paper.cash_usd:,}"),
        ]
    rows = [
        ("a trade", f"{_percent(float(paper.share_cost_rate), 2)} of its value"),
        ("a buy that waits", f"{_percent(float(paper.share_wait_rate), 2)} above the price"),
        (
            f"fees by the day, below {paper.share_fees_below_usd:,} USD of cash",
            _fees(paper, SHARES_SOLD, PROCEEDS, SHARES),
        ),
        ("paper cash, USD", f"{paper.cash_usd:,}"),
    ]
    if rules.basket.weight_max < 1.0:
        rows.append(("most that one symbol may weigh", _percent(rules.basket.weight_max)))
    if rules.basket.band:
        rows.append(("a change of weight that is not traded", f"below {_percent(rules.basket.band)}"))
    if name == daily_rebalancer.SPEC.name:
        usd, part = rules.basket.notional_per_unit_usd, rules.basket.equity_per_unit
        words = f"{_percent(part)} of the equity" if part else f"{rules.basket.shares_per_unit} shares"
        words = f"{usd:,} USD" if usd else words
        rows.append(("an action of 1", f"{words} of the stock"))
    return rows


def main() -> None:
    """Write all pages."""
    for name in STRATEGIES:
        page = PAGES / f"{name}.md"
        page.write_text(made(name, page.read_text()))


if __name__ == "__main__":
    main()
