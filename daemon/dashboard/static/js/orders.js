// The orders that followed from a decision, with their fills.

import { el, empty, figures, more, table } from "./dom.js";
import { clock, count, instrument, number, quantity, side, usd, words } from "./format.js";
import { price } from "./parts.js";

const FIRST = 8; // shown at once

export function followed(all, became) {
  if (!all.length) return empty(became === "ordered" ? "Its orders are still to come." : "No order followed.");
  if (new Set(all.map((line) => line.symbol)).size > 1) return basket(all);
  const others = all.slice(FIRST);
  return [all.slice(0, FIRST).map(order), others.length > 0 && more("orders", `The other ${number(others.length)}`, others.map(order))];
}

// The orders of a basket under one heading, a line each: sells first, as they are sent.
function basket(all) {
  const cost = ({ fills }) => fills.reduce((sum, [, filled, price]) => sum + filled * price, 0);
  const average = (line) => (line.filled ? cost(line) / line.filled : null);
  const fees = ({ fills }) => fills.reduce((sum, fill) => sum + fill[3], 0);
  const of = (sign) => all.filter((line) => line.side === sign);
  const total = (some) => `${count(some.length, "order")}, ${usd(some.reduce((sum, line) => sum + cost(line), 0))}`;
  return [
    figures(
      [
        ["Sold", total(of(-1))],
        ["Bought", total(of(1))],
        ["Fees", usd(all.reduce((sum, line) => sum + fees(line), 0))],
        ["Sent", clock(all[0].submitted)],
      ],
      "figures small",
    ),
    table(
      "Orders of the basket",
      [
        { name: "Order", of: (line) => `${side(line.side)} ${quantity(line.quantity)} ${instrument(line.symbol)}` },
        { name: "Limit", number: true, of: price },
        { name: "Filled", number: true, of: (line) => quantity(line.filled) },
        { name: "Price", number: true, of: (line) => usd(average(line)) },
        { name: "Fees", number: true, of: (line) => usd(fees(line)) },
        { name: "Status", of: (line) => words(line.status) },
        { name: "Name", minor: true, of: (line) => el("code", {}, line.client_order_id) },
      ],
      all,
      { tight: true, row: (line) => ({ data: { order: line.client_order_id } }) },
    ),
  ];
}

function order(line) {
  return el(
    "div",
    { class: "holding", data: { order: line.client_order_id } },
    el("h3", {}, `${side(line.side)} ${quantity(line.quantity)} × ${instrument(line.symbol)}`),
    el("p", {}, `${line.limit && !line.resting ? "limit " : ""}${price(line)}, ${words(line.status)}, ${quantity(line.filled)} filled, sent ${clock(line.submitted)}`),
    el("p", { class: "muted" }, el("code", {}, line.client_order_id)),
    line.fills.length > 0 &&
      table(
        `Fills of ${line.client_order_id}`,
        [
          { name: "Filled", of: ([time]) => clock(time) },
          { name: "Quantity", number: true, of: ([, filled]) => quantity(filled) },
          { name: "Price", number: true, of: ([, , price]) => usd(price) },
          { name: "Fees", number: true, of: ([, , , fees]) => usd(fees) },
        ],
        line.fills,
        { stacked: false },
      ),
  );
}
