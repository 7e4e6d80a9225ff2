// The heads of a policy, and the actions that it chose by symbol.

import { el, empty, more, table } from "./dom.js";
import { count, number, percent, signed, words } from "./format.js";

const SYMBOLS_FIRST = 30; // shown at once

// The heads of a policy that answers by symbol: each head, what was taken from each wish, and the weights.
// The answer has a column of its own unless a head is the answer.
// Symbols whose weight changes come first, then those with the largest answers.
export function headTables(data) {
  if (!data) return empty("This policy has no heads.");
  const chosen = data.choices.length > 0 && table("Actions by symbol", [
    { name: "Symbol", of: (one) => one.symbol },
    ...Object.keys(data.choices[0].behaviour).map((action) => ({ name: `Value of ${words(action)}`, number: true, of: (one) => signed(one.values[action] ?? null) })),
    { name: "Greedy", of: (one) => words(one.greedy) },
    { name: "Taken", of: (one) => words(one.drawn) },
    ...Object.keys(data.choices[0].behaviour).map((action) => ({ name: `Probability of ${words(action)}`, number: true, of: (one) => percent(one.behaviour[action]) })),
    { name: "Allowed", of: (one) => one.allowed.map(words).join(", ") },
  ], data.choices, { tight: true });
  const change = (line) => Math.abs((line.after ?? 0) - (line.before ?? 0));
  const lines = [...data.lines].sort((a, b) => change(b) - change(a) || Math.abs(b.answer ?? 0) - Math.abs(a.answer ?? 0));
  const wishes = data.columns.map((column, place) => [column, place]).filter(([column]) => column.wish && !column.constant);
  const named = data.columns.some((column, place) => !column.wish && data.lines.every((line) => line.heads[place].length === 1 && line.heads[place][0] === line.answer));
  const columns = [
    { name: "Symbol", of: (line) => line.symbol || "all" },
    ...data.columns.map((column, place) => ({ name: words(column.name), number: true, of: (line) => line.heads[place].map((value) => number(value, 3)).join(" · ") || "–" })),
    ...wishes.map(([column, place]) => ({ name: `taken from ${words(column.name)}`, number: true, of: (line) => (line.taken[place] === null ? "–" : signed(line.taken[place])) })),
    !named && !chosen && { name: "Answer", number: true, of: (line) => (line.answer === null ? "–" : signed(line.answer)) },
    { name: "Weight held", number: true, of: (line) => percent(line.before) },
    { name: "Weight wanted", number: true, of: (line) => percent(line.after) },
    data.lines.some((line) => line.note) && { name: "Left alone", of: (line) => line.note || "–" },
  ].filter(Boolean);
  const rows = (some, name) => table(name, columns, some, { tight: true, row: (line) => ({ data: { symbol: line.symbol } }) });
  const first = lines.slice(0, SYMBOLS_FIRST);
  return [
    chosen,
    rows(first, "Heads by symbol"),
    lines.length > first.length && more("heads", `${count(lines.length - first.length, "more symbol")}`, rows(lines.slice(SYMBOLS_FIRST), "Heads of the other symbols")),
    more("meanings", "What the heads mean", el("ul", { class: "plain-list" }, data.columns.map((column) => el("li", {}, el("b", {}, words(column.name)), ` ${column.meaning}`)))),
  ];
}
