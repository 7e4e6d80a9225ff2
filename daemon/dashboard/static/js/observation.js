// What the policy saw, laid out: minutes × features of a desk of minutes, symbols × kinds of a daily one, and a plain
// list for what belongs to no symbol. Contributions, where there are some, in the same places.

import { el, more } from "./dom.js";
import { count, exact, signed } from "./format.js";

const OF_SYMBOL = /^(.+) ([A-Z][A-Z0-9.^/-]*)$/;

// A decision's page -> { matrix: see heatmap.js | null, plain: [[name, value, contribution|null]] }.
export function layout(page) {
  const cells = page.contribution?.cells?.length ? page.contribution.cells : null;
  if (page.rows.length > 1) {
    const last = page.rows.length - 1;
    return {
      matrix: {
        corner: "bar",
        rows: page.rows.map((_, row) => (row === last ? "newest" : `−${last - row}`)),
        columns: page.features,
        values: page.rows,
        cells,
      },
      plain: [],
    };
  }
  return bySymbol(page.features, page.rows[0], cells?.[0] ?? null);
}

function bySymbol(features, row, cells) {
  const kinds = new Map();
  const symbols = new Map();
  const plain = [];
  const places = [];
  features.forEach((name, index) => {
    const parts = OF_SYMBOL.exec(name);
    if (!parts) {
      plain.push([name, row[index], cells ? cells[index] : null]);
      return;
    }
    const [, kind, symbol] = parts;
    if (!kinds.has(kind)) kinds.set(kind, kinds.size);
    if (!symbols.has(symbol)) symbols.set(symbol, symbols.size);
    places.push([symbols.get(symbol), kinds.get(kind), index]);
  });
  if (!symbols.size) return { matrix: null, plain };
  const blank = () => [...symbols.keys()].map(() => [...kinds.keys()].map(() => null));
  const values = blank();
  const parts = cells ? blank() : null;
  for (const [r, c, index] of places) {
    values[r][c] = row[index];
    if (parts) parts[r][c] = cells[index];
  }
  return { matrix: { corner: "symbol", rows: [...symbols.keys()], columns: [...kinds.keys()], values, cells: parts }, plain };
}

// Inputs by name; those of value 0 and without a contribution are folded.
export function plainList(lines) {
  const active = lines.filter(([, value, part]) => value !== 0 || part);
  const silent = lines.filter(([, value, part]) => value === 0 && !part);
  if (silent.length < 8) return list(lines);
  return [active.length > 0 && list(active), more("silent", `${count(silent.length, "input")} of 0`, list(silent))];
}

function list(lines) {
  const explained = lines.some(([, , part]) => part !== null);
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      el("caption", { class: "hidden" }, "Inputs that belong to no symbol"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Input"), el("th", { scope: "col", class: "number" }, "Value"), explained && el("th", { scope: "col", class: "number" }, "Contribution"))),
      el(
        "tbody",
        {},
        lines.map(([name, value, part]) =>
          el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number", data: { value } }, exact(value)), explained && el("td", { class: "number" }, signed(part, 4))),
        ),
      ),
    ),
  );
}
