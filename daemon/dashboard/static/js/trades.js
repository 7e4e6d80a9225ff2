// Trades: round trips from flat to flat, their sums, filters, and a file of what matches.

import { card, chooser, el, empty, field, figures, pageful, table } from "./dom.js";
import { ask, resource, target } from "./feed.js";
import { count, day, left, minute, number, percent, span, usd, words } from "./format.js";
import { gain, opening, partOf, soFar, trouble } from "./parts.js";

export const title = "Trades";
const SIDES = ["", "long", "short", "call", "put"];
const RESULTS = ["", "win", "loss", "open"];
const SORTS = [["time", "newest first"], ["pnl", "largest P&L first"], ["duration", "longest first"]];

export function mount(main, { desk, address }) {
  const problems = trouble();
  const sums = card("All that match", { id: "sums", note: "A trade is one position from flat to flat, at average cost: it is closed when flat. Amounts are after fees." });
  const lists = [["Open", true], ["Closed", false]].map(([name, open]) => ({ name, open, ...card(name, { id: open ? "held" : "closed" }) }));
  const pager = el("p", { class: "pager" });
  const wished = { symbol: "", from: "", to: "", side: "", result: "", sort: "time" };
  const limit = pageful();
  let page = 0;
  let known = "";
  const query = () => ({ desk, ...wished });
  const trades = resource(
    (signal) => ask("trades", { ...query(), offset: page * limit, limit: limit }, signal),
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
  const limited = () => Object.entries(wished).some(([name, value]) => name !== "sort" && value);
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
    el("div", { id: "trips" }, lists.map((list) => list.section)),
    pager,
  );

  const turn = (text, act) =>
    el("button", { type: "button", data: { key: text }, on: { click: () => (act(), trades.refresh(true)) } }, text);

  function show(data) {
    problems.fine();
    const matching = data.totals.trades + data.totals.open;
    sums.show(data.totals, summed);
    for (const { name, open, heading, section, show } of lists) {
      const some = data.trades.filter((trade) => !trade.left === open);
      const all = open ? data.totals.open : data.totals.trades;
      heading.textContent = `${name}: ${number(all)}`;
      section.hidden = !all && (open || matching > 0);
      show([some, all], () => (some.length ? rows(some, data.columns, open, address) : empty(all ? "On another page of the list: see below." : limited() ? "No trade matches." : "No trade yet.")));
    }
    pager.replaceChildren(
      ...[
        page > 0 && turn("Earlier lines", () => (page -= 1)),
        matching > 0 && el("span", {}, `${number(page * limit + 1)} to ${number(Math.min(matching, (page + 1) * limit))} of ${number(matching)}`),
        matching > (page + 1) * limit && turn("Later lines", () => (page += 1)),
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
    totals.open > 0 && totals.open_usd !== null && ["P&L in all", gain(totals.pnl_usd + totals.open_usd), `closed and open, after ${usd(totals.fees_usd + totals.open_fees_usd)} of fees`],
    totals.open > 0 && ["Open", gain(totals.open_usd), [count(totals.open, "trade"), totals.open_usd !== null && [": ", soFar(totals.open_unrealized_usd, totals.open_realized_usd)]]],
    totals.trades > 0 && ["Closed", gain(totals.pnl_usd), `after ${usd(totals.fees_usd)} of fees`],
    ["Closed trades", number(totals.trades), known ? `${number(totals.wins)} won, ${number(totals.losses)} lost` : ""],
    known && ["Win rate", percent(totals.win_rate)],
    known && ["Profit factor", totals.profit_factor === null ? "–" : number(totals.profit_factor, 2), totals.profit_factor === null ? "no losses" : "gains / losses"],
    known && ["Expectancy", gain(totals.expectancy_usd), "mean of a trade"],
    known && ["Average holding", span(totals.held_s)],
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

function rows(data, columns, open, address) {
  return table(
    open ? "Open trades" : "Closed trades",
    [
      { name: "Trade", of: (trade) => trade.what },
      { name: "P&L", number: true, of: (trade) => (!open ? gain(trade.pnl_usd, trade.pnl_percent) : el("div", { class: "open" }, gain(trade.pnl_usd, trade.pnl_percent), el("small", {}, " ", soFar(left(trade.pnl_usd, trade.realised_usd), trade.realised_usd)))) },
      { name: "Entered", of: (trade) => step(trade.entered, trade.why_entered, trade.confidence, trade.entry_decision, address) },
      { name: "Entry", number: true, of: (trade) => usd(trade.entry) },
      open && { name: "Open", of: (trade) => partOf(trade.held, trade.quantity) },
      !open && { name: "Left", of: (trade) => step(trade.left, trade.why_left, null, trade.exit_decision, address) },
      !open && { name: "Exit", number: true, of: (trade) => usd(trade.exit) },
      { name: "Held", number: true, of: (trade) => el("span", {}, span(trade.held_s), trade.bars !== null && el("small", {}, ` ${count(trade.bars, "bar")}`)) },
      { name: "Worst", title: "The lowest P&L while it was held", number: true, of: (trade) => gain(trade.worst_usd, trade.worst_percent) },
      { name: "Best", title: "The highest P&L while it was held", number: true, of: (trade) => gain(trade.best_usd, trade.best_percent) },
      ...columns.map(({ name, heading, meaning, number }) => ({ name: heading, title: meaning, number, minor: true, of: (trade) => (name.endsWith("_usd") ? usd(trade.more[name]) : trade.more[name]) })),
    ].filter(Boolean),
    data,
    { tight: true, row: (trade) => ({ data: { trade: `${trade.entered} ${trade.symbol}` } }) },
  );
}
