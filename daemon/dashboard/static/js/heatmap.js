// Numbers as a table of colours: rows and columns have names, a cell its value in words on hover and on focus. The
// colour shows how a value compares within its own column. The number is in the cell, so colour is never alone.

import { el } from "./dom.js";
import { exact, number, signed } from "./format.js";

const BLUE = [33, 102, 172];
const ORANGE = [179, 88, 6];
const WHITE = [247, 247, 247];
const NIGHT = [44, 53, 63];
const FULL = 3; // robust standard deviations at which a colour is full

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// A column's middle and spread: median and 1.4826 x the median absolute deviation (the standard deviation of normal
// numbers); where more than half are equal, 1.2533 x the mean absolute deviation; 0 where all are equal.
export function robust(values) {
  const middle = median(values);
  const off = values.map((value) => Math.abs(value - middle));
  const mean = off.reduce((sum, value) => sum + value, 0) / off.length;
  return { middle, spread: 1.4826 * median(off) || 1.2533 * mean };
}

// The power of ten in which numbers up to `largest` are written with three digits: 0 where none is needed.
export function power(largest) {
  const ten = largest > 0 ? Math.floor(Math.log10(largest)) : 0;
  return ten >= -1 && ten <= 3 ? 0 : ten;
}
const digits = (power) => [...String(power)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("");
const units = (power) => (power ? ` ·10${digits(power)}` : "");
const written = (value, power, largest) => number(value / 10 ** power, power || largest < 10 ? 2 : largest < 100 ? 1 : 0);
const nothing = () => (getComputedStyle(document.documentElement).getPropertyValue("--night").trim() === "1" ? NIGHT : WHITE);

// `share` in [-1, 1] -> background, from `zero` on, and a text colour that is readable on it.
function paint(node, share, zero) {
  const end = share < 0 ? BLUE : ORANGE;
  const part = Math.min(1, Math.abs(share));
  const rgb = zero.map((from, index) => Math.round(from + (end[index] - from) * part));
  const light = (0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])) > 0.179;
  node.style.backgroundColor = `rgb(${rgb.join(", ")})`;
  node.style.color = light ? "#000" : "#fff";
}
const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);

// `matrix`: { rows: [name], columns: [name], corner, values: [[number|null]], cells: [[number|null]] | null }.
export function heatmap(matrix, { caption }) {
  const scales = matrix.columns.map((_, column) => {
    const values = matrix.values.map((row) => row[column]).filter((value) => value !== null);
    const largest = Math.max(0, ...values.map(Math.abs));
    return { ...(values.length ? robust(values) : { middle: 0, spread: 0 }), largest, power: power(largest) };
  });
  const largest = Math.max(0, ...(matrix.cells ?? []).flat().map((value) => Math.abs(value ?? 0)));
  const ten = power(largest); // of the contributions, which share one scale
  const readout = el("p", { class: "readout" }, "Point at a cell, or walk through the table with the arrow keys.");
  const nodes = [];
  let mode = "values";

  const cell = (row, column) => {
    const node = el("td", { role: "gridcell", tabindex: row + column ? -1 : 0, data: { row, column } });
    const value = matrix.values[row][column];
    if (value !== null) node.dataset.value = String(value);
    return node;
  };
  const body = matrix.rows.map((name, row) => {
    nodes.push(matrix.columns.map((_, column) => cell(row, column)));
    return el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, name), nodes[row]);
  });
  const grid = el(
    "table",
    { class: "heat", role: "grid", "aria-label": caption, on: { pointerover: read, focusin: read, keydown: walk } },
    el("caption", { class: "hidden" }, caption),
    el(
      "thead",
      { role: "rowgroup" },
      el(
        "tr",
        { role: "row" },
        el("th", { scope: "col", role: "columnheader" }, matrix.corner),
        matrix.columns.map((name, column) =>
          el(
            "th",
            { scope: "col", role: "columnheader", class: "tall", data: { name } },
            el("span", {}, name, el("em", {}, units(scales[column].power))),
          ),
        ),
      ),
    ),
    el("tbody", { role: "rowgroup" }, body),
  );

  function shade() {
    const zero = nothing();
    grid.dataset.mode = mode;
    nodes.forEach((row, r) =>
      row.forEach((node, c) => {
        const value = matrix.values[r][c];
        if (value === null) {
          node.textContent = "";
          return;
        }
        const part = matrix.cells?.[r]?.[c] ?? 0;
        const { middle, spread, ...column } = scales[c];
        node.textContent = mode === "values" ? written(value, column.power, column.largest) : written(part, ten, largest);
        paint(node, mode === "values" ? (spread ? (value - middle) / (FULL * spread) : 0) : part / (largest || 1), zero);
      }),
    );
  }

  function read(event) {
    const node = event.target.closest("td");
    if (!node?.dataset.value) return;
    const [r, c] = [Number(node.dataset.row), Number(node.dataset.column)];
    const { middle, spread } = scales[c];
    const value = matrix.values[r][c];
    const far = spread ? `, ${signed((value - middle) / spread, 1)} spreads from its column's median ${exact(middle)}` : "";
    const part = matrix.cells ? `; contribution ${signed(matrix.cells[r][c], 4)}` : "";
    readout.textContent = `${matrix.columns[c]}, ${matrix.corner} ${matrix.rows[r]}: ${exact(value)}${far}${part}`;
  }

  function walk(event) {
    const node = event.target.closest("td");
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!node || !step) return;
    event.preventDefault();
    event.stopPropagation(); // within the table the arrows walk through it, not through the decisions
    const next = nodes[Number(node.dataset.row) + step[0]]?.[Number(node.dataset.column) + step[1]];
    if (!next) return;
    node.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  shade();
  return {
    node: el("div", {}, readout, el("div", { class: "scroll" }, grid)),
    legend: legend(ten),
    mode(wished) {
      mode = wished;
      shade();
    },
    shade,
  };
}

function legend(ten) {
  const strip = el("span", { class: "strip", "aria-hidden": "true" });
  for (let step = -6; step <= 6; step += 1) {
    const part = el("i");
    strip.append(part);
    part.dataset.share = step / 6;
  }
  const words = el("span");
  const box = el("p", { class: "legend" }, strip, words);
  return {
    box,
    explain(mode) {
      const zero = nothing();
      for (const part of strip.children) paint(part, Number(part.dataset.share), zero);
      words.textContent =
        mode === "values"
          ? `Blue: low for its own column, orange: high; full colour ${FULL} robust standard deviations (1.4826 × median ` +
            "absolute deviation) from the column's median. A column without any difference stays plain. ·10⁻⁴ after a " +
            "name: its numbers are in units of 0.0001."
          : "Blue: the output would rise without this cell, orange: it would fall; full colour is the " +
            `largest contribution here.${ten ? ` The numbers are in units of 10${digits(ten)}.` : ""}`;
    },
  };
}
