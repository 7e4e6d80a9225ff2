// All desks at once: a line for each, and totals by account and by kind of money, which are never added to each other.

import { badge, card, el, empty, figures, pair, refill, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { ago, author, count, day, instrument, minute, number, percent, usd, words } from "./format.js";
import { gain, opening, spark, trouble } from "./parts.js";

export const title = "Fleet";
const EVERY_MS = 3000;
const SPARKS_MS = 30_000;
const REAL = "real money";
const RECORDED = "recorded data";
const PLAY = new Set(["dry run", "recorded data"]); // each desk has a paper broker of its own

export function mount(main, { address }) {
  const problems = trouble();
  const totals = el("div", { class: "columns even", id: "totals" });
  const desks = card("Desks, what needs attention first", { id: "desks", wide: true });
  const replays = card("Finished replays", { id: "replays", wide: true, note: "Recorded data that was played to its end: nothing there needs a person. Their times are recorded ones." });
  const remarks = el("div", { id: "remarks" });
  const gateways = el("div", { id: "gateways" });
  main.append(
    ...opening("Fleet", "All desks of this dashboard. The P&L is that of the newest session, without transfers."),
    problems.box,
    totals,
    remarks,
    desks.section,
    gateways,
    replays.section,
  );
  const page = resource((signal) => ask("fleet", {}, signal), show, problems.fail, EVERY_MS);
  const timer = setInterval(() => page.refresh(), EVERY_MS);
  let known = "";
  let courses = {}; // of each desk's equity
  let shown = null;
  const sparks = resource((signal) => ask("sparks", {}, signal), drawn, () => {}, SPARKS_MS);
  const slower = setInterval(() => sparks.refresh(), SPARKS_MS);
  page.refresh();
  sparks.refresh();

  function drawn(all) {
    courses = all;
    if (shown) show(shown);
  }

  function show(data) {
    problems.fine();
    shown = data;
    const key = JSON.stringify([data.totals, data.remarks, data.desks.map((line) => line.session)]);
    if (key !== known) {
      known = key;
      const kinds = data.totals.filter((total) => !total.account);
      totals.replaceChildren(...kinds.map((total) => sum(total, data)));
      remarks.replaceChildren(...data.remarks.map((text) => el("p", { class: "note" }, text)));
    }
    refill(gateways, data.gateways.map(account));
    const [live, over] = [false, true].map((finished) => data.desks.filter((line) => played(line) === finished));
    desks.section.hidden = !live.length && over.length > 0;
    replays.section.hidden = !over.length;
    desks.show([live, courses], () => (live.length ? lines(live, address, courses, "Desks") : empty("No desk.")));
    replays.show([over, courses], () => lines(over, address, courses, "Finished replays"));
  }

  return {
    close() {
      clearInterval(timer);
      clearInterval(slower);
      sparks.close();
      page.close();
    },
  };
}

function sum(total, { desks, totals }) {
  const accounts = totals.filter((part) => part.account && part.money === total.money);
  const days = desks.filter((line) => line.money === total.money && !line.problem && line.session).map((line) => line.session).sort();
  const alike = total.counted === total.desks;
  const box = card("", { id: `total-${total.money.replaceAll(" ", "-")}` });
  box.heading.append(kind(total.money), ` ${count(total.desks, "desk")}`);
  box.body.append(
    figures([
      ["Equity", usd(total.equity_usd)],
      alike || total.day_usd === null
        ? ["P&L", gain(total.day_usd), dated(total.session)]
        : ["P&L", el("span", { class: "muted" }, "not comparable"), `newest sessions from ${dated(days[0])} to ${dated(days.at(-1))}`],
      ["Exposure", percent(total.exposure), usd(total.exposed_usd)],
      ["Alarms", number(total.alarms), total.money === RECORDED ? `of the whole ${total.desks === 1 ? "run" : "runs"}` : "of the newest day"],
    ]),
    ...(accounts.length ? [parts(accounts)] : []),
  );
  return box.section;
}

// An account with several desks behind a gateway: its sub-accounts, what they add up to, and what the broker says.
function account(view, at) {
  const box = card(`Account ${view.account || view.folder}`, { id: `gateway-${at}`, wide: true });
  const [text, tone] = { ready: ["running", "good"], away: ["BROKER AWAY", "warn"] }[view.state] ?? [view.state.toUpperCase(), "bad"];
  box.heading.append(" ", badge(text, tone), " ", view.money ? kind(view.money) : "");
  const said = [view.detail, view.state === "silent" && `These figures are from ${ago(view.lag_s)}.`, view.halt && `No new risk: ${view.halt}`, ...view.differences.map((words) => `Difference: ${words}`)];
  box.body.append(...said.filter(Boolean).map((words) => el("p", { class: "note" }, words)));
  if (view.lines.length) box.body.append(books(view));
  return box.section;
}

function books(view) {
  const own = (line, value) => (line.kind === "sub-account" ? value() : "–");
  return table(
    "Sub-accounts, their sum, and the broker's figures",
    [
      { name: "Sub-account", of: (line) => pair(line.name, line.suspended ? "fenced: no new order" : "") },
      { name: "Cash", number: true, of: (line) => usd(line.cash_usd) },
      { name: "Equity", number: true, of: (line) => usd(line.equity_usd) },
      { name: "Orders", number: true, of: (line) => own(line, () => number(line.orders)) },
      { name: "Holds", of: (line) => own(line, () => instrument(line.holds)) },
    ],
    view.lines,
    { row: (line) => ({ data: { account: line.name, kind: line.kind } }) },
  );
}

const kind = (money) => badge(money === REAL ? "LIVE MONEY" : money, money === REAL ? "live" : "plain");
const dated = (session) => (session ? day(Date.parse(`${session}T17:00Z`) / 1000) : "");

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

// A replay that came to its end: what it holds there is no holding.
const played = (line) => !line.problem && line.money === RECORDED && !line.running;

// One state for each desk, by how much it wants attention: the rank, the words, the tone, and what is to be said.
function state(line) {
  if (line.problem) return [0, "UNREADABLE", "bad", line.problem];
  const [kind, ...reason] = line.trading.split(": ");
  const why = [author(reason.join(": ")), !line.running && "stopped"].filter(Boolean).join("; ");
  if (played(line)) return [7, "finished", "plain", kind === "reconciled" || kind === "not reconciled" ? "" : line.trading];
  if (kind === "halted") return [1, "HALTED", "bad", why];
  if (kind === "blocked by the broker") return [1, "BLOCKED", "bad", why];
  if (kind === "paused") return [2, "PAUSED", "warn", why];
  if (kind === "claim broken") return [2, "CLAIM BROKEN", "warn", why];
  if (!line.running && line.holds !== "flat") return [3, "STOPPED – HOLDING", "warn", ""];
  if (!line.running && line.orders) return [3, "STOPPED – ORDERS AT WORK", "warn", "nobody watches what they fill"];
  if (line.running && !line.may_trade) return [4, "NOT RECONCILED", "warn", "book and broker are not yet compared"];
  return line.running ? [5, "running", "good", ""] : [6, "stopped", "plain", ""];
}

function lines(all, address, courses, caption) {
  const sorted = [...all].sort((a, b) => state(a)[0] - state(b)[0] || b.alarms - a.alarms);
  const kinds = new Set(all.filter((line) => !line.problem).map((line) => line.money));
  const known = (line, value) => (line.problem ? "–" : value());
  const course = ({ name, equity_usd: now }) => (courses[name]?.length ? spark([...courses[name], now], `Equity from ${usd(courses[name][0])} to ${usd(now)}`) : "–");
  return table(
    caption,
    [
      { name: "Desk", of: (line) => pair(el("a", { href: address("now", [], line.name), data: { key: line.name } }, line.name), line.name.includes(words(line.strategy)) ? "" : words(line.strategy)) },
      { name: "State", of: trading },
      { name: "Alarms", of: (line) => (line.alarms ? pair(badge(count(line.alarms, "alarm"), "bad"), words(line.alarm)) : line.problem ? "–" : "none") },
      { name: "Equity", number: true, of: (line) => known(line, () => usd(line.equity_usd)) },
      { name: "Course", minor: true, title: "The equity since the journal began", of: (line) => known(line, () => course(line)) },
      { name: "P&L", number: true, of: (line) => known(line, () => (line.day_usd === null ? "–" : pair(gain(line.day_usd), dated(line.session)))) },
      { name: "Exposure", number: true, minor: true, of: (line) => known(line, () => percent(line.exposure)) },
      { name: "Holds", of: (line) => known(line, () => `${instrument(line.holds)}${line.orders ? `; ${count(line.orders, "order")}` : ""}`) },
      (kinds.size > 1 || !PLAY.has([...kinds][0])) && { name: "Money", of: (line) => known(line, () => pair(kind(line.money), PLAY.has(line.money) ? "" : line.account)) },
      { name: "Newest event", of: lag },
    ].filter(Boolean),
    sorted,
    { row: (line) => ({ data: { fleet: line.name, state: state(line)[1] } }) },
  );
}

function trading(line) {
  const [, text, tone, why] = state(line);
  return pair(badge(text, tone), why);
}

function lag(line) {
  if (line.problem || !line.time) return "–";
  return line.lag_s === null ? pair(`${day(line.time)}, ${minute(line.time)}`, "recorded time") : ago(line.lag_s);
}
