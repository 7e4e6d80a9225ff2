// The gates by the condition that each one asks for, so that a tick is good and a cross is bad.

import { author, count, instrument, words } from "./format.js";
import { el, empty, more } from "./dom.js";

const SIGNS = { passes: ["✓", "good"], denies: ["✕", "bad"], unknown: ["?", "plain"], unneeded: ["–", "plain"] };
const SHUT = new Set(["outside_session", "market_closed"]);
const FOLLOWS = new Set(["near_open", "near_close", "stale_bar", "stale_history"]);
const NAMES = {
  halted: "not halted",
  paused: "not paused",
  stopping: "not being stopped",
  not_reconciled: "book and broker agree",
  account_blocked: "account may trade",
  calendar_unknown: "session known",
  outside_session: "within the session",
  near_open: "opening minutes are over",
  near_close: "not near the close",
  market_closed: "market open",
  no_trade_window: "outside of no-trade windows",
  warm_up: "enough bars",
  stale_bar: "newest bar is fresh",
  gapped_bars: "no gap in the bars",
  stale_history: "history is up to date",
  model_not_verified: "model verified",
  model_not_promoted: "model promoted",
  model_other_feed: "model trained on this feed",
  answer_not_finite: "answer is finite",
  low_confidence: "confidence is enough",
  cooldown_trade: "cooldown after a trade is over",
  cooldown_loss: "cooldown after a loss is over",
  orders_per_minute: "orders of a minute within the limit",
  orders_per_day: "orders of the day within the limit",
  order_quantity: "order's quantity within the limit",
  order_notional: "order's value within the limit",
  order_weight: "order's weight within the limit",
  max_position: "position within the limit",
  position_weight: "position's weight within the limit",
  gross_exposure: "exposure within the limit",
  gross_weight: "all positions within the limit",
  buying_power: "enough buying power",
  price_collar: "price within the collar",
  wide_spread: "spread is narrow enough",
  stale_quote: "quote is fresh",
  spot_unsupported: "bar and quotes agree on the price",
  open_interest: "enough open interest",
  expires_today: "does not expire today",
  basket_legs: "basket is complete",
  basket_under_way: "no other basket under way",
  turnover: "turnover within the limit",
  daily_loss: "loss of the day within the limit",
  drawdown: "drawdown within the limit",
  consecutive_losses: "losses in a row within the limit",
  reject_rate: "few orders were rejected",
  shares_held: "no shares from an exercise",
  intraday_margin: "margin is enough",
  duplicate_intent: "not sent twice",
  opposite_order: "no opposite order works",
  oversell: "sells no more than is held",
};

export const gateName = (name) => NAMES[name] ?? `not ${words(name)}`;

// What denies first; what passes, what is not needed and what was not asked, behind their numbers. `now`: the gates
// as they stand; those that deny because the market is closed are no fault.
export function gates(lines, { none = "No gate was asked.", unknown = "need an order to judge", of = "a new entry", now = false } = {}) {
  if (!lines.length) return empty(none);
  const state = (gate) => (gate.state === "passes" && gate.reason ? "unneeded" : gate.state);
  const [denies, passes, unneeded, others] = ["denies", "passes", "unneeded", "unknown"].map((name) => lines.filter((gate) => state(gate) === name));
  const closed = now && denies.some((gate) => SHUT.has(gate.name)) && denies.every((gate) => SHUT.has(gate.name) || FOLLOWS.has(gate.name));
  const headline = closed
    ? el("p", { class: "headline muted", data: { closed: "" } }, "Market closed")
    : el("p", { class: "headline" }, `${denies.length ? count(denies.length, "gate denies", "gates deny") : "No gate denies"} ${of}.`);
  return [
    headline,
    denies.length > 0 && (closed ? more("closed", "What follows from that", list(denies, "plain")) : list(denies)),
    passes.length > 0 && more("passes", count(passes.length, "gate passes", "gates pass"), list(passes)),
    unneeded.length > 0 && more("unneeded", count(unneeded.length, "gate is not needed", "gates are not needed"), list(unneeded)),
    others.length > 0 && more("unknown", `${count(others.length, "gate")} ${unknown}`, list(others)),
  ];

  function list(some, tone = "") {
    return el("ul", { class: "gates" }, some.map((gate) => row(gate, state(gate), tone)));
  }
}

function row(gate, state, tone) {
  const [sign, kind] = SIGNS[state] ?? SIGNS.unknown;
  return el(
    "li",
    { data: { gate: gate.name, state: gate.state } },
    el("span", { class: `sign ${tone || kind}`, "aria-hidden": "true" }, sign),
    el("span", { class: "gate-name" }, gateName(gate.name)),
    el("span", { class: `gate-state ${tone || kind}` }, { passes: "yes", denies: "no", unneeded: "not needed" }[state] ?? ""),
    gate.reason && el("span", { class: "gate-reason" }, author(instrument(gate.reason))),
    gate.ends > 0 && gate.state === "denies" && el("span", { class: "gate-ends", data: { ends: gate.ends } }),
  );
}
