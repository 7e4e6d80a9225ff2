// Trades: round trips from flat to flat, their sums, filters, and a file of what matches.

import { card, chooser, el, empty, field, figures, table } from "./dom.js";
import { ask, resource, target } from "./feed.js";
import { count, day, left, minute, number, percent, span, usd, words } from "./format.js";
import { gain, openOf, opening, soFar, trouble } from "./parts.js";

export const title = "Trades";
const LIMIT = 50;
const SIDES = ["", "long", "short", "call", "put"];
const RESULTS = ["", "win", "loss", "open"];
const SORTS = [["time", "newest first"], ["pnl", "largest P&L first"], ["duration", "longest first"]];

export function mount(main, { desk, address }) {
  const problems = trouble();
  const sums = card("All that match", { id: "sums", note: "A trade is one position from flat to flat, at average cost: it is closed when flat. Amounts are after fees." });
  const list = card("Round trips", { id: "trips" });
  const pager = el("p", { class: "pager" });
  const wished = { symbol: "", from: "", to: "", side: "", result: "", sort: "time" };
  let page = 0;
  let known = "";
  const query = () => ({ desk, ...wished });
  const trades = resource(
    (signal) => ask("trades", { ...query(), offset: page * LIMIT, limit: LIMIT }, signal),
    show,
    problems.fail,
    2000,
  );
  const save = el("a", { class: "action", download: "trades.csv", href: "#" }, "Save as CSV");
  const wish = (name) => (value) => {
    wished[name] = value;
    page = 0;
    link();
    trades.refresh(true);
  };
  const link = () => save.setAttribute("href", target("trades.csv", query()));
  const name = (text) => (text ? words(text) : "all");
  const filters = el(
    "div",
    { class: "choosers", role: "group", "aria-label": "Filters" },
    field("Symbol", "search", wish("symbol")),
    field("From", "date", wish("from")),
    field("To", "date", wish("to")),
    chooser("Side", SIDES.map((side) => [side, name(side)]), "", wish("side")),
    chooser("Result", RESULTS.map((result) => [result, name(result)]), "", wish("result")),
    chooser("Sort", SORTS, "time", wish("sort")),
    save,
  );
  link();
  main.append(
    ...opening("Trades", "What was entered and left, what it brought, and why. Times are New York's."),
    problems.box,
    filters,
    sums.section,
    list.section,
    pager,
  );

  const turn = (text, act) =>
    el("button", { type: "button", data: { key: text }, on: { click: () => (act(), trades.refresh(true)) } }, text);

  function show(data) {
    problems.fine();
    const matching = data.totals.trades + data.totals.open;
    sums.show(data.totals, summed);
    list.show(data.trades, (all) => (all.length ? rows(all, address) : empty("No trade matches.")));
    pager.replaceChildren(
      ...[
        page > 0 && turn("Earlier lines", () => (page -= 1)),
        matching > 0 && el("span", {}, `${number(page * LIMIT + 1)} to ${number(Math.min(matching, (page + 1) * LIMIT))} of ${number(matching)}`),
        matching > (page + 1) * LIMIT && turn("Later lines", () => (page += 1)),
      ].filter(Boolean),
    );
  }

  trades.refresh();
  return {
    update(now) {
      const key = `${now.realized_usd}/${now.last_bar}/${now.positions.length}`;
      if (key !== known && page === 0) trades.refresh();
      known = key;
    },
    close: () => trades.close(),
  };
}

function summed(totals) {
  const known = totals.win_rate !== null;
  return figures([
    ["Closed trades", number(totals.trades), known ? `${number(totals.wins)} won, ${number(totals.losses)} lost` : ""],
    ["Total P&L", gain(totals.pnl_usd), `after ${usd(totals.fees_usd)} of fees`],
    known && ["Win rate", percent(totals.win_rate)],
    known && ["Profit factor", totals.profit_factor === null ? "–" : number(totals.profit_factor, 2), totals.profit_factor === null ? "no losses" : "gains / losses"],
    known && ["Expectancy", gain(totals.expectancy_usd), "mean of a trade"],
    known && ["Average holding", span(totals.held_s)],
    totals.open > 0 && ["Open", number(totals.open), totals.open_usd === null ? "" : el("span", {}, gain(totals.open_usd), ": ", soFar(left(totals.open_usd, totals.open_realized_usd), totals.open_realized_usd))],
    totals.open > 0 && ["Realised in all", gain(totals.pnl_usd + totals.open_realized_usd), `closed trades and parts sold, after ${usd(totals.fees_usd + totals.open_fees_usd)} of fees`],
    totals.other_usd !== 0 && ["Not in a trade", usd(totals.other_usd, { sign: true }), "fees of the ledger, dividends, interest"],
  ]);
}

// When, and below it why: a link to the decision where there is one.
function step(time, why, confidence, decision, address) {
  const cause = [words(why) || "–", confidence !== null && ` ${percent(confidence, 0)}`];
  const link = decision > 0 && el("a", { href: address("decision", [decision]), data: { key: `${decision}` }, title: `Decision ${number(decision)}` }, cause);
  return [el("span", { class: "when" }, `${day(time)}, ${minute(time)}`), el("span", { class: "cause" }, link || cause)];
}

function rows(data, address) {
  return table(
    "Trades",
    [
      { name: "Trade", of: (trade) => trade.what },
      { name: "P&L", number: true, of: (trade) => (trade.left ? gain(trade.pnl_usd, trade.pnl_percent) : el("div", { class: "open" }, gain(trade.pnl_usd, trade.pnl_percent), el("small", {}, " ", soFar(left(trade.pnl_usd, trade.realised_usd), trade.realised_usd)))) },
      { name: "Entered", of: (trade) => step(trade.entered, trade.why_entered, trade.confidence, trade.entry_decision, address) },
      { name: "Entry", number: true, of: (trade) => usd(trade.entry) },
      {
        name: "Left",
        of: (trade) => (trade.left ? step(trade.left, trade.why_left, null, trade.exit_decision, address) : el("span", { class: "badge warn" }, openOf(trade.held, trade.quantity))),
      },
      { name: "Exit", number: true, of: (trade) => (trade.left ? usd(trade.exit) : "–") },
      { name: "Held", number: true, of: (trade) => el("span", {}, span(trade.held_s), trade.bars !== null && el("small", {}, ` ${count(trade.bars, "bar")}`)) },
      { name: "Worst", title: "The lowest P&L while it was held", number: true, of: (trade) => gain(trade.worst_usd, trade.worst_percent) },
      { name: "Best", title: "The highest P&L while it was held", number: true, of: (trade) => gain(trade.best_usd, trade.best_percent) },
      { name: "Fees", number: true, minor: true, of: (trade) => usd(trade.fees_usd) },
    ],
    data,
    { tight: true, row: (trade) => ({ data: { trade: `${trade.entered} ${trade.symbol}` } }) },
  );
}
