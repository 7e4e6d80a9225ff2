// The gates, each by what it looks at and what it found, so that a tick is good and a cross is bad.

import { author, count, instrument, words } from "./format.js";
import { el, empty, more } from "./dom.js";

const SIGNS = { passes: ["✓", "good"], denies: ["✕", "bad"], unknown: ["?", "plain"], unneeded: ["–", "plain"] };
const SHUT = new Set(["outside_session", "market_closed"]);
const FOLLOWS = new Set(["near_open", "near_close", "stale_bar", "stale_history"]);
// What each gate looks at, what it says where it lets through, and where it denies: one plain answer a row.
const NAMES = {
  halted: ["halt", "none", "halted"],
  paused: ["pause", "none", "paused"],
  stopping: ["stop of the daemon", "not asked for", "asked for"],
  not_reconciled: ["book and broker", "agree", "not compared"],
  account_blocked: ["account at the broker", "may trade", "blocked"],
  calendar_unknown: ["session of this time", "known", "unknown"],
  outside_session: ["session hours", "open", "closed"],
  near_open: ["time since the open", "enough", "too short"],
  near_close: ["time to the close", "enough", "too short"],
  market_closed: ["closure that the broker reports", "none", "closed"],
  blind: ["what is held", "seen", "not seen"],
  trading_halted: ["halt by the exchange", "none", "halted"],
  no_trade_window: ["no-trade window", "none now", "within one"],
  warm_up: ["bars for the indicators", "enough", "too few"],
  stale_bar: ["newest bar", "fresh", "too old"],
  gapped_bars: ["gaps in the bars", "none", "too long"],
  stale_history: ["history of days", "up to date", "too old"],
  model_not_verified: ["model's files", "verified", "not verified"],
  model_not_promoted: ["model for real money", "promoted", "not promoted"],
  model_other_feed: ["feed of the model's training", "this one", "another"],
  answer_not_finite: ["policy's answer", "finite", "not finite"],
  low_confidence: ["confidence", "enough", "too low"],
  cooldown_trade: ["cooldown after a trade", "over", "runs"],
  cooldown_loss: ["cooldown after a loss", "over", "runs"],
  orders_per_minute: ["orders of this minute", "within the limit", "at the limit"],
  orders_per_day: ["orders of this day", "within the limit", "at the limit"],
  order_quantity: ["order's quantity", "within the limit", "too large"],
  order_notional: ["order's value", "within the limit", "too large"],
  order_weight: ["order's weight", "within the limit", "too large"],
  max_position: ["contracts held and coming", "within the limit", "too many"],
  position_weight: ["position's weight", "within the limit", "too large"],
  gross_exposure: ["exposure", "within the limit", "too large"],
  gross_weight: ["weight of all positions", "within the limit", "too large"],
  buying_power: ["buying power", "enough", "too small"],
  price_collar: ["price", "within the collar", "outside of it"],
  wide_spread: ["spread", "narrow enough", "too wide"],
  no_quote: ["contract with bid and ask", "found", "none"],
  stale_quote: ["quote", "fresh", "too old"],
  spot_unsupported: ["price of the bar and of the quotes", "agree", "differ"],
  open_interest: ["open interest", "enough", "too small"],
  expires_today: ["contract's last day", "later", "today"],
  basket_legs: ["basket", "complete", "incomplete"],
  basket_under_way: ["other basket", "none under way", "under way"],
  turnover: ["turnover", "within the limit", "too large"],
  daily_loss: ["loss of the session", "within the limit", "too large"],
  drawdown: ["drawdown", "within the limit", "too deep"],
  consecutive_losses: ["losses in a row", "within the limit", "too many"],
  reject_rate: ["rejected orders", "few", "too many"],
  claim_broken: ["model's claim about risk", "not broken", "broken"],
  owner_unknown: ["owner of ledger lines", "known", "not known"],
  others_short: ["a short position in the symbol", "no", "yes"],
  closed_by_hand: ["closed by a person today", "no", "yes"],
  shares_held: ["shares from an exercise", "none", "held"],
  intraday_margin: ["margin", "enough", "too small"],
  duplicate_intent: ["same order before", "none", "sent already"],
  opposite_order: ["opposite order", "none works", "works"],
  oversell: ["shares to sell", "held", "more than held"],
};

const named = (name) => NAMES[name] ?? [words(name), "passes", "denies"];

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
  const [topic, passes, denies] = named(gate.name);
  return el(
    "li",
    { data: { gate: gate.name, state: gate.state } },
    el("span", { class: `sign ${tone || kind}`, "aria-hidden": "true" }, sign),
    el("span", { class: "gate-name" }, topic),
    el("span", { class: `gate-state ${tone || kind}` }, { passes, denies, unneeded: "not needed" }[state] ?? ""),
    gate.reason && state !== "unknown" && el("span", { class: "gate-reason" }, author(instrument(gate.reason))),
    gate.ends > 0 && gate.state === "denies" && el("span", { class: "gate-ends", data: { ends: gate.ends } }),
  );
}
