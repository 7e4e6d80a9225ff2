// All desks at once: a line for each, and totals by account and by kind of money, which are never added to each other.

import { badge, card, el, empty, figures, pair, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, day, minute, number, percent, span, usd, words } from "./format.js";
import { gain, opening, trouble } from "./parts.js";

export const title = "Fleet";
const EVERY_MS = 3000;
const REAL = "real money";
const PLAY = new Set(["dry run", "recorded data"]); // each desk has a paper broker of its own

export function mount(main, { address }) {
  const problems = trouble();
  const totals = el("div", { class: "columns even", id: "totals" });
  const desks = card("Desks", { id: "desks", wide: true });
  const remarks = el("div", { id: "remarks" });
  main.append(
    ...opening("Fleet", "All desks of this dashboard. The P&L is that of the newest session, without transfers; lag is the age of the newest event."),
    problems.box,
    totals,
    remarks,
    desks.section,
  );
  const page = resource((signal) => ask("fleet", {}, signal), show, problems.fail, EVERY_MS);
  const timer = setInterval(() => page.refresh(), EVERY_MS);
  let known = "";
  page.refresh();

  function show(data) {
    problems.fine();
    const key = JSON.stringify([data.totals, data.remarks]);
    if (key !== known) {
      known = key;
      const kinds = data.totals.filter((total) => !total.account);
      totals.replaceChildren(...kinds.map((total) => sum(total, data.totals.filter((part) => part.account && part.money === total.money))));
      remarks.replaceChildren(...data.remarks.map((text) => el("p", { class: "note" }, text)));
    }
    desks.show(data.desks, (all) => (all.length ? lines(all, address) : empty("No desk.")));
  }

  return {
    close() {
      clearInterval(timer);
      page.close();
    },
  };
}

function sum(total, accounts) {
  const box = card("", { id: `total-${total.money.replaceAll(" ", "-")}` });
  box.heading.append(kind(total.money), ` ${count(total.desks, "desk")}`);
  box.body.append(
    figures([
      ["Equity", usd(total.equity_usd)],
      ["P&L", gain(total.day_usd), ofDay(total)],
      ["Exposure", percent(total.exposure), usd(total.exposed_usd)],
      ["Alarms", number(total.alarms), "of the newest day"],
    ]),
    ...(accounts.length ? [parts(accounts)] : []),
  );
  return box.section;
}

const kind = (money) => badge(money === REAL ? "LIVE MONEY" : money, money === REAL ? "live" : "plain");
const ofDay = (total) => (total.counted < total.desks ? `${total.session}: ${total.counted} of ${total.desks} desks` : total.session);

function parts(accounts) {
  return table(
    "By account",
    [
      { name: "Account", of: (total) => total.account },
      { name: "Equity", number: true, of: (total) => usd(total.equity_usd) },
      { name: "P&L", number: true, of: (total) => gain(total.day_usd) },
      { name: "Exposure", number: true, of: (total) => percent(total.exposure) },
    ],
    accounts,
  );
}

function lines(all, address) {
  return table(
    "Desks",
    [
      { name: "Desk", of: (line) => pair(el("a", { href: address("now", [], line.name), data: { key: line.name } }, line.name), words(line.strategy)) },
      { name: "Money", of: (line) => (line.problem ? "–" : pair(kind(line.money), PLAY.has(line.money) ? "" : line.account)) },
      { name: "Trading", of: trading },
      { name: "Equity", number: true, of: (line) => usd(line.equity_usd) },
      { name: "P&L", number: true, of: (line) => (line.day_usd === null ? "–" : pair(gain(line.day_usd), line.session)) },
      { name: "Exposure", number: true, of: (line) => percent(line.exposure) },
      { name: "Holds", of: (line) => (line.problem ? "–" : `${line.holds}${line.orders ? `; ${count(line.orders, "order")}` : ""}`) },
      { name: "Alarms", of: (line) => (line.alarms ? pair(number(line.alarms), words(line.alarm)) : line.problem ? "–" : "none") },
      { name: "Lag", number: true, of: lag },
    ],
    all,
    { row: (line) => ({ data: { fleet: line.name } }) },
  );
}

function trading(line) {
  if (line.problem) return el("span", { class: "bad-text" }, line.problem);
  const state = el("span", { class: line.may_trade ? null : "bad-text" }, line.trading);
  return pair(badge(line.running ? "runs" : "not running", line.running ? "good" : "plain"), state);
}

function lag(line) {
  if (line.problem || !line.time) return "–";
  return line.lag_s === null ? pair("recorded", `${day(line.time)}, ${minute(line.time)}`) : span(line.lag_s);
}
