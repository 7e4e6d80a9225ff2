// What several pages show alike: bars of probabilities, alarms, orders, positions. Data in, elements out.

import { append, badge, el, empty, figures, more, table } from "./dom.js";
import { author, clock, day, instrument, moment, number, percent, quantity, side, signed, usd, words } from "./format.js";

// What became of a decision: blue where its orders were filled, for that is neither good nor bad.
const OUTCOMES = {
  filled: "done", trimmed: "done", exited: "done", ordered: "done", exit: "done", working: "warn", partly_filled: "warn",
  not_filled: "warn", no_order: "warn", expired: "warn", denied: "bad", failed: "bad",
};
export const outcome = ({ became, outcome: name }) => badge(words(became || name), OUTCOMES[became || name] ?? "plain");

// A sentence of the journal about a decision, in the page's words.
export const sentence = (text) => author(instrument(text));

// An action as it was chosen, and what it meant with what was held.
export const chosenAction = ({ action, resolved }) => [words(action) || "no answer", resolved && resolved !== action && ` → ${words(resolved)}`];

// A continuous policy's values are no probabilities: they may be negative, or come to more than one.
export function continuous(shares) {
  const sum = shares.reduce((total, share) => total + share.value, 0);
  return shares.length > 0 && (shares.some((share) => share.value < 0) || Math.abs(sum - 1) > 0.01);
}

// Probabilities as bars; of a continuous policy the actions with the largest values, to both sides of nothing.
export function probabilities(shares, chosen) {
  if (!shares.length) return empty("No probabilities: the policy answers for each symbol, a rule decided, or nothing answered.");
  if (continuous(shares)) {
    return [
      el("h3", {}, "What it wants of each symbol"),
      el("p", { class: "note" }, "The policy's answer for each symbol, a number without a unit: at −1 it wants the least of it, at +1 the most. The largest come first."),
      leaning(shares.map(({ action, value }) => [action, value]), { limit: 1, most: 12, digits: 3, ends: ["−1", "0", "+1"] }),
    ];
  }
  return el(
    "ul",
    { class: "bars" },
    shares.map(({ action, value }) =>
      el(
        "li",
        { class: action === chosen ? "chosen" : null, data: { action, value } },
        el("span", { class: "bar-name" }, words(action), action === chosen && el("b", {}, " chosen")),
        el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: { width: `${100 * value}%` } })),
        el("span", { class: "bar-value" }, percent(value)),
      ),
    ),
  );
}

// Named numbers of both signs as bars from the middle, the largest first. `ends`: what left, middle and right mean.
export function leaning(pairs, { limit = 0, most = 30, digits = 4, ends = ["opposed", "0", "supported"] } = {}) {
  const sorted = [...pairs].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const open = Math.min(most, sorted.filter(([, value]) => value !== 0).length || 1); // what did nothing is folded away
  const largest = limit || Math.abs(sorted[0]?.[1] ?? 0) || 1;
  const row = ([name, value]) => {
    const width = Math.min(50, (50 * Math.abs(value)) / largest);
    return el(
      "li",
      { data: { name, value } },
      el("span", { class: "bar-name" }, name),
      el(
        "span",
        { class: "bar leaning", "aria-hidden": "true" },
        el("i", {
          class: value < 0 ? "minus" : "plus",
          style: { width: `${width}%`, left: value < 0 ? `${50 - width}%` : "50%" },
        }),
      ),
      el("span", { class: "bar-value" }, signed(value, digits)),
    );
  };
  const scale = el("li", { class: "scale", "aria-hidden": "true" }, el("span", {}, ends.map((text) => el("span", {}, text))));
  const bars = (some) => el("ul", { class: "bars" }, scale.cloneNode(true), some.map(row));
  if (sorted.length <= open) return bars(sorted);
  return [bars(sorted.slice(0, open)), more("rest", `The other ${number(sorted.length - open)}`, bars(sorted.slice(open)))];
}

// An amount with an arrow and a sign, so that a gain and a loss differ without colour, too.
export function gain(amount, share = null) {
  if (amount === null || amount === undefined) return "–";
  const kind = amount > 0 ? "gain" : amount < 0 ? "loss" : "even";
  return el("span", { class: kind }, usd(amount, { sign: true }), share !== null && el("small", {}, ` ${signed(share, 2)} %`));
}

// The same of a share: 0.01 is 1 %.
export function change(share, digits = 2) {
  if (share === null || share === undefined) return "–";
  const kind = share > 0 ? "gain" : share < 0 ? "loss" : "even";
  return el("span", { class: kind }, `${signed(100 * share, digits)} %`);
}

// Of the version that the desk's newest state names: a desk that does not run answers nothing.
export const answering = (live) => (live ? badge("answers now", "good") : badge("answered last", "plain"));

export function alarms(lines, none) {
  if (!lines.length) return empty(none);
  return el(
    "ol",
    { class: "log" },
    lines.map((line) =>
      el("li", {}, el("time", {}, moment(line.time)), el("strong", {}, words(line.name)), el("span", {}, author(instrument(line.detail)))),
    ),
  );
}

// What was raised: the same alarm again and again is one line with a count.
export function raised(lines, none) {
  if (!lines.length) return empty(none);
  return el(
    "ol",
    { class: "log" },
    lines.map((line) =>
      el(
        "li",
        { data: { raised: line.name, count: line.count } },
        el("time", {}, moment(line.time), line.count > 1 && `, the first ${moment(line.first)}`),
        el("strong", {}, words(line.name), line.count > 1 && ` (${number(line.count)} times)`),
        el("span", {}, author(instrument(line.detail))),
      ),
    ),
  );
}

// Of which time what was raised is: of a live desk the newest day, of recorded data the whole run.
export const raisedIn = (mode) => (["replay", "recorded"].includes(mode) ? "during the run" : "on the newest day");

// The price of an order: of a stop that rests at the broker the one at which it sells.
export function price({ limit, stop, resting }) {
  if (resting) return stop ? `stop ${usd(stop)}` : "stop";
  return limit ? usd(limit) : "market";
}

const SHOWN = 8; // orders of a basket

// Orders that work; the stops that rest at the broker are folded, and a basket's beyond the first.
export function orders(lines, none) {
  if (!lines.length) return empty(none);
  const resting = lines.filter((line) => line.resting);
  const stops = resting.length < 2 ? [] : resting;
  const others = stops.length ? lines.filter((line) => !line.resting) : lines;
  const [first, rest] = [others.slice(0, SHOWN), others.slice(SHOWN)];
  return [
    rest.length > 0 && el("p", { class: "headline" }, `${number(others.length)} orders`),
    first.length > 0 && listed(first),
    rest.length > 0 && more("orders", `The other ${number(rest.length)}`, listed(rest)),
    stops.length > 0 && more("stops", `${number(stops.length)} stops that rest at the broker`, listed(stops)),
  ];
}

function listed(lines) {
  return table(
    "Orders",
    [
      { name: "Order", of: (order) => el("span", {}, `${side(order.side)} ${quantity(order.quantity)} ${instrument(order.symbol)}`) },
      { name: "Limit", number: true, of: price },
      { name: "Filled", number: true, of: (order) => `${quantity(order.filled)} of ${quantity(order.quantity)}` },
      { name: "Status", of: (order) => words(order.status) },
      { name: "Sent", of: (order) => clock(order.submitted) },
      { name: "Name", of: (order) => el("code", {}, order.client_order_id) },
    ],
    lines,
    { row: (order) => ({ data: { order: order.client_order_id } }) },
  );
}

// How much of what was entered is still held.
export const partOf = (held, entered) => `${quantity(held)}${entered > Math.abs(held) ? ` of ${quantity(entered)}` : ""}`;

// What an open position has made so far: at the newest mark, and by what was left again.
export const soFar = (unrealised, realised) => ["unrealised ", gain(unrealised), realised ? [", realised ", gain(realised)] : ""];

// A position in full, with its stop-loss and take-profit where it has them.
export function holding(held) {
  return el(
    "div",
    { class: "holding", data: { symbol: held.symbol } },
    el("h3", {}, instrument(held.symbol)),
    el("p", { class: "open" }, `open: ${partOf(held.quantity, held.entered)}`),
    figures(
      [
        ["Entry", usd(held.entry)],
        ["Mark", usd(held.mark)],
        ["Weight", percent(held.weight), "of the equity"],
        ["Unrealised", gain(held.pnl_usd), held.entry ? `${signed(100 * (held.mark / held.entry - 1), 2)} %` : ""],
        held.realised_usd !== 0 && ["Realised", gain(held.realised_usd), "with fees"],
        held.stop > 0 && ["Stop-loss", usd(held.stop)],
        held.rests > 0 && ["Rests at the broker", usd(held.rests), "a stop"],
        held.target > 0 && ["Take-profit", usd(held.target)],
        ["Held since", clock(held.opened), day(held.opened)],
      ],
      "figures small",
    ),
    held.stop > 0 && held.target > held.stop && gauge(held),
  );
}

// Where the mark stands between stop-loss and take-profit.
function gauge({ stop, entry, mark, target }) {
  const low = Math.min(stop, mark);
  const high = Math.max(target, mark);
  const at = (price) => `${(100 * (price - low)) / (high - low)}%`;
  const pin = (name, price) => el("i", { class: `pin ${name}`, style: { left: at(price) } }, el("b", {}, name));
  return el(
    "div",
    { class: "gauge", role: "img", "aria-label": `Mark ${usd(mark)} between stop-loss ${usd(stop)} and take-profit ${usd(target)}, entry ${usd(entry)}.` },
    el("span", { class: "track" }),
    pin("stop", stop),
    pin("entry", entry),
    pin("mark", mark),
    pin("target", target),
  );
}

// A small line of numbers without axes; where it ends is told by its colour and its arrow in the text beside it.
export function spark(values, label) {
  const [wide, high] = [96, 24];
  const drawing = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const [low, most] = [Math.min(...values), Math.max(...values)];
  const points = values.map((value, at) => `${((at / (values.length - 1)) * wide).toFixed(1)},${(high - 2 - ((value - low) / (most - low || 1)) * (high - 4)).toFixed(1)}`);
  const box = drawing("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "img", "aria-label": label, class: "spark" });
  box.append(drawing("polyline", { points: points.join(" ") }));
  return box;
}

// The first lines of a page: its heading, which takes the focus when the page changes, and what it is about.
export function opening(title, about) {
  const heading = el("h1", { tabindex: -1 }, title);
  return about ? [heading, el("p", { class: "about" }, about)] : [heading];
}

// Where a page shows that a request failed; empty when the next one succeeds.
export function trouble() {
  const box = el("p", { class: "trouble", role: "alert", hidden: true });
  return {
    box,
    fail(problem) {
      box.hidden = false;
      const why = /[.?!]$/.test(problem.message) ? problem.message : `${problem.message}.`;
      box.textContent = `Not read: ${why} What stands below may be old.`;
    },
    say(...words) {
      box.hidden = false;
      box.replaceChildren();
      append(box, words);
    },
    fine() {
      box.hidden = true;
      box.textContent = "";
    },
  };
}
