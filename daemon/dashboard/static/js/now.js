// The desk at this moment: chart, equity, position, the newest answer, gates, orders, alarms. Drawn from the stream's
// state; only bars and equity are requested, when the state shows new ones. Money comes first.

import { card, columns, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { equityChart } from "./charts.js";
import { explorer } from "./explore.js";
import { clock, count, dated, day, instrument, moment, number, percent, quantity, usd, words } from "./format.js";
import { gates } from "./gates.js";
import { warnings } from "./header.js";
import { chosenAction, gain, holding, opening, orders, outcome, probabilities, raised, raisedIn, sentence, soFar, trouble } from "./parts.js";

export const title = "Now";
const FULL = 3; // positions that are shown in full
const TABLE = 8; // lines of a portfolio that are open

export function mount(main, { desk, address, go, view, keep }) {
  const problems = trouble();
  const money = el("div", { id: "money" });
  const price = card("Price", { id: "price", wide: true });
  const equity = card("Equity and drawdown", { id: "equity", wide: true });
  const answer = card("Newest decision", { id: "answer" });
  const position = card("Position", { id: "position" });
  const gate = card("Gates for a new entry", { id: "gates" });
  const working = card("Working orders", { id: "orders" });
  const alarm = card("Alarms", { id: "alarms" });
  const model = card("Session and model", { id: "model" });
  const course = el("div", { class: "chart low", role: "img", "aria-label": "No equity yet." });
  const said = el("div", { class: "said" }); // in full what a phone's header has no room for
  const cards = columns([position, answer, equity, working, gate, alarm, model].map((one) => one.section));
  equity.body.append(course, el("p", { class: "note" }, "Only times at which the equity changed have a place here."));
  main.append(
    ...opening("Now"),
    problems.box,
    money,
    said,
    price.section,
    cards.box,
  );

  const chart = explorer(price, { desk, view, keep, address, problems, open: (decision) => go("decision", [decision]) });
  const curve = equityChart(course);
  let key = "";

  const equities = resource((signal) => ask("equity", { desk }, signal), showEquity, problems.fail, 3000);

  function showEquity(data) {
    problems.fine();
    curve.show(data);
  }

  function update(now) {
    const news = JSON.stringify([now.last_bar, now.decision, now.session, now.orders.length, now.positions.length]);
    if (news !== key) {
      if (key) chart.news();
      key = news;
      equities.refresh();
    }
    money.replaceChildren(
      figures([
        ["Equity", usd(now.equity_usd)],
        ["P&L", now.day_usd === "" ? "–" : gain(Number(now.day_usd)), now.session && `session of ${dated(now.session)}`],
        ["Position", ...(now.equity_usd === "" ? ["–"] : held(now.positions))],
        ["Drawdown", now.equity_usd === "" ? "–" : percent(-now.drawdown), "from the highest equity"],
        ["Cash", usd(now.cash_usd)],
        ["Realised", now.realized_usd === "" ? "–" : gain(Number(now.realized_usd)), "since the journal began"],
      ]),
    );
    said.replaceChildren(...warnings(now).map(([kind, text]) => el("p", { class: `banner ${kind}` }, text)));
    answer.show([now.decision, now.action, now.resolved, now.became, now.why, now.confidence, now.probabilities, now.acted], () => newest(now, address));
    const told = now.equity_usd !== ""; // else nothing of this journal can be read
    position.show(told && now.positions, (all) => (all ? holdings(all) : empty("What is held is not known.")));
    gate.show(now.gates, (all) => gates(all, { none: "No gate was asked yet.", now: true }));
    working.show(told && now.orders, (open) => (open ? orders(open, "No order works at the broker.") : empty("Not known.")));
    alarm.show([now.raised, now.mode], ([all, mode]) => raised(all, `No alarm ${raisedIn(mode)}.`));
    model.show([now.model, now.promoted, now.session, now.session_ended, now.last_bar, now.broker_heard, now.broker_lost, now.running, now.rows], () => situation(now));
    chart.position(now.positions);
  }

  return {
    update,
    close() {
      equities.close();
      chart.close();
      curve.close();
      cards.close();
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
    ? ["", "paper", "live"].includes(now.mode) ? "not heard yet" : "simulated: fills are made up by this host"
    : now.broker_lost > now.broker_heard
      ? `lost since ${moment(now.broker_lost)}`
      : `last full report ${moment(now.broker_heard)}`;
  return figures(
    [
      ["Model", el("code", {}, now.model || "none"), now.model ? (now.promoted ? "promoted" : "not promoted: no real money") : "nobody decides: no new position"],
      ["Session", dated(now.session) || "none yet", `${hours}${now.session_ended ? ", over" : ""}`],
      ["Newest bar", ...(now.bars_are_days ? [day(now.last_bar), "the day's bar"] : [moment(now.last_bar)])],
      ["Broker", broker],
      ["Desk", now.running ? "running" : "stopped", count(now.seq, "event")],
      ...now.rows.map(([name, text]) => [name[0].toUpperCase() + name.slice(1), text]),
    ],
    "figures small",
  );
}
