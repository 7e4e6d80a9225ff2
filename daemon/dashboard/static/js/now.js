// The desk at this moment: chart, equity, position, the newest answer, gates, orders, alarms. Drawn from the stream's
// state; only bars and equity are requested, when the state shows new ones.

import { card, chooser, el, empty, figures, more, refill, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { daily, equityChart, interval, priceChart } from "./charts.js";
import { clock, count, day, instrument, moment, number, percent, quantity, usd, words } from "./format.js";
import { gates } from "./gates.js";
import { alarms, chosenAction, gain, holding, opening, orders, outcome, probabilities, sentence, soFar, trouble } from "./parts.js";

export const title = "Now";
const FULL = 3; // positions that are shown in full
const TABLE = 8; // lines of a portfolio that are open

export function mount(main, { desk, address, go }) {
  const problems = trouble();
  const money = el("div", { id: "money" });
  const price = card("Price", { id: "price", wide: true });
  const equity = card("Equity and drawdown", { id: "equity", wide: true });
  const answer = card("Newest decision", { id: "answer" });
  const position = card("Position", { id: "position" });
  const gate = card("Gates for a new entry", { id: "gates" });
  const working = card("Working orders", { id: "orders" });
  const alarm = card("Newest alarms", { id: "alarms" });
  const model = card("Session and model", { id: "model" });
  const canvas = el("div", { class: "chart", role: "img", "aria-label": "No bars yet." });
  const course = el("div", { class: "chart low", role: "img", "aria-label": "No equity yet." });
  const choosers = el("div", { class: "choosers" });
  const fills = el("div", { id: "fills" });
  price.head.append(choosers);
  price.body.append(canvas, el("p", { class: "note" }, "Hollow candle: closed higher. Arrow up: entry, arrow down: exit; choose one to see its decision."), fills);
  equity.body.append(course, el("p", { class: "note" }, "Times without a session are left out."));
  main.append(
    ...opening("Now"),
    problems.box,
    money,
    el(
      "div",
      { class: "columns" },
      el("div", { class: "column" }, price.section, equity.section, model.section),
      el("div", { class: "column" }, answer.section, position.section, gate.section, working.section, alarm.section),
    ),
  );

  const chart = priceChart(canvas, (decision) => go("decision", [decision]));
  const curve = equityChart(course);
  let session = ""; // "" follows the newest
  let symbol = "";
  let state = null;
  let shown = null; // the price answer that is drawn
  let key = "";

  const bars = resource((signal) => ask("price", { desk, session, symbol }, signal), showPrice, problems.fail, 1000);
  const equities = resource((signal) => ask("equity", { desk }, signal), showEquity, problems.fail, 3000);

  function showPrice(data) {
    problems.fine();
    shown = data;
    price.heading.textContent = data.symbol ? [data.symbol, interval(data.bars), when(data)].filter(Boolean).join(", ") : "Price";
    chart.show(data);
    lines();
    const chosen = JSON.stringify([data.sessions, data.symbols, data.session, data.symbol]);
    if (choosers.dataset.key !== chosen) {
      choosers.dataset.key = chosen;
      choosers.replaceChildren(
        ...[
          data.symbols.length > 1 && chooser("Symbol", data.symbols.map((name) => [name, name]), data.symbol, choose("symbol")),
          data.sessions.length > 1 &&
            chooser("Session", [...data.sessions].reverse().map((date) => [date, date]), data.session, choose("session", data.sessions.at(-1))),
        ].filter(Boolean),
      );
    }
    refill(fills, fillList(data));
  }

  const choose = (what, newest) => (value) => {
    if (what === "symbol") symbol = value;
    else session = value === newest ? "" : value;
    bars.refresh(true);
  };

  function fillList(data) {
    const heading = `Fills of ${data.symbol}, ${when(data)}: ${number(data.marks.length)}`;
    if (!data.marks.length) return empty(`No fill of ${data.symbol}, ${when(data)}.`);
    return more(
      "fills",
      heading,
      table(
        heading,
        [
          { name: "Time", of: (mark) => clock(mark.time) },
          { name: "Kind", of: (mark) => mark.kind },
          { name: "What", of: (mark) => instrument(mark.text) },
          {
            name: "Decision",
            of: (mark) => (mark.decision ? el("a", { href: address("decision", [mark.decision]) }, `Decision ${number(mark.decision)}`) : "by hand or by a rule"),
          },
        ],
        data.marks,
      ),
    );
  }

  function showEquity(data) {
    problems.fine();
    curve.show(data);
  }

  // lines on the chart where it shows what is held, else the bar in the card alone
  function lines() {
    chart.position(shown && !session && state?.positions.find((held) => held.symbol === shown.symbol));
  }

  function update(now) {
    state = now;
    const news = JSON.stringify([now.last_bar, now.decision, now.session, now.orders.length, now.positions.length]);
    if (news !== key) {
      key = news;
      bars.refresh();
      equities.refresh();
    }
    money.replaceChildren(
      figures([
        ["Equity", usd(now.equity_usd)],
        ["P&L", now.day_usd === "" ? "–" : gain(Number(now.day_usd)), now.session && `session of ${now.session}`],
        ["Drawdown", now.equity_usd === "" ? "–" : percent(-now.drawdown), "from the highest equity"],
        ["Position", ...(now.equity_usd === "" ? ["–"] : held(now.positions))],
        ["Cash", usd(now.cash_usd)],
        ["Realised", now.realized_usd === "" ? "–" : gain(Number(now.realized_usd)), "since the journal began"],
      ]),
    );
    answer.show([now.decision, now.action, now.resolved, now.became, now.why, now.confidence, now.probabilities, now.acted], () => newest(now, address));
    position.show(now.positions, holdings);
    gate.show(now.gates, (all) => gates(all, { none: "No gate was asked yet.", now: true }));
    working.show(now.orders, (open) => orders(open, "No order works at the broker."));
    alarm.show(now.alarms, (all) => alarms(all, "No alarm."));
    model.show([now.model, now.promoted, now.session, now.session_ended, now.last_bar, now.broker_heard, now.broker_lost, now.running, now.rows], () => situation(now));
    lines();
  }

  return {
    update,
    close() {
      bars.close();
      equities.close();
      chart.close();
      curve.close();
    },
  };
}

function newest(now, address) {
  if (!now.decision) return empty("No decision yet.");
  return [
    el("p", { class: "headline" }, el("span", { data: { action: now.action } }, chosenAction(now)), " ", outcome(now)),
    now.why.map((text) => el("p", { class: "note" }, sentence(text))),
    now.confidence > 0 && el("p", {}, "Confidence ", el("strong", { data: { confidence: now.confidence } }, percent(now.confidence))),
    probabilities(now.probabilities, now.action),
    el("p", {}, el("a", { class: "action", data: { key: "open" }, href: address("decision", [now.decision]) }, `Open decision ${number(now.decision)}`)),
    now.acted && now.acted.decision !== now.decision && lastOrder(now.acted, address),
  ];
}

// The newest decision that led to orders, for most decisions do nothing.
function lastOrder(line, address) {
  return el(
    "div",
    { class: "holding", data: { acted: line.decision } },
    el("h3", {}, "Newest with an order"),
    el("p", { class: "headline" }, chosenAction(line), " ", outcome(line)),
    el("p", {}, `${line.traded}, ${moment(line.time)}`, line.closed_usd !== null && ["; the trade made ", gain(line.closed_usd)]),
    line.why.map((text) => el("p", { class: "note" }, sentence(text))),
    el("p", {}, el("a", { class: "action", data: { key: "acted" }, href: address("decision", [line.decision]) }, `Open decision ${number(line.decision)}`)),
  );
}

// What is held in a word, and what it has gained so far.
function held(all) {
  if (!all.length) return ["none"];
  const gained = all.reduce((sum, one) => sum + one.pnl_usd, 0);
  const realised = all.length > 1 ? 0 : all[0].realised_usd;
  return [all.length > 1 ? count(all.length, "position") : `${quantity(all[0].quantity)} × ${instrument(all[0].symbol)}`, el("span", {}, soFar(gained, realised))];
}

// Which bars these are: one session's, or of a daily desk all up to one.
function when({ session, bars }) {
  if (!session) return "no session yet";
  return daily(bars) ? `to ${session}` : session;
}

// A few in full; a portfolio as a table, the largest gains and losses first.
function holdings(all) {
  if (!all.length) return empty("Nothing is held.");
  if (all.length <= FULL) return all.map(holding);
  const sorted = [...all].sort((a, b) => Math.abs(b.pnl_usd) - Math.abs(a.pnl_usd));
  const list = (some) =>
    table(
      "Positions",
      [
        { name: "Symbol", of: (held) => [held.symbol, el("small", {}, `${quantity(held.quantity)} × ${usd(held.mark)}`)] },
        { name: "Weight", number: true, of: (held) => percent(held.weight) },
        { name: "Unrealised", number: true, of: (held) => gain(held.pnl_usd) },
      ],
      some,
      { stacked: false, row: (held) => ({ data: { symbol: held.symbol } }) },
    );
  const rest = sorted.slice(TABLE);
  const [value, weight] = ["value_usd", "weight"].map((name) => all.reduce((sum, held) => sum + (held[name] ?? 0), 0));
  return [
    el("p", { class: "headline" }, `${count(all.length, "position")}, ${usd(value)}, ${percent(weight)} of the equity`),
    list(sorted.slice(0, TABLE)),
    rest.length > 0 && more("positions", `The other ${number(rest.length)}`, list(rest)),
  ];
}

function situation(now) {
  const hours = now.session_open ? `${clock(now.session_open)} to ${clock(now.session_close)}` : "";
  const broker = !now.broker_heard
    ? ["paper", "live"].includes(now.mode) ? "not heard yet" : "a paper broker plays, inside the desk"
    : now.broker_lost > now.broker_heard
      ? `lost since ${moment(now.broker_lost)}`
      : `last full report ${moment(now.broker_heard)}`;
  return figures(
    [
      ["Model", el("code", {}, now.model || "none yet"), now.model ? (now.promoted ? "promoted" : "not promoted: no real money") : ""],
      ["Session", now.session || "none yet", `${hours}${now.session_ended ? ", over" : ""}`],
      ["Newest bar", ...(now.bars_are_days ? [day(now.last_bar), "the day's bar"] : [moment(now.last_bar)])],
      ["Broker", broker],
      ["Desk", now.running ? "running" : "stopped", count(now.seq, "event")],
      ...now.rows.map(([name, text]) => [name[0].toUpperCase() + name.slice(1), text]),
    ],
    "figures small",
  );
}
