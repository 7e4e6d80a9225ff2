// Elements. Whatever comes from a desk becomes a text node here: no string is ever read as HTML, and styles are set
// through the object model, because the page's policy forbids inline ones.

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [kind, act] of Object.entries(value)) node.addEventListener(kind, act);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

// Fill a box anew; what was open there stays open, and what had the focus keeps it (both known by their `data-key`).
export function refill(box, children) {
  const keyed = () => [...box.querySelectorAll("[data-key]")];
  const open = new Set(keyed().filter((node) => node.open).map((node) => node.dataset.key));
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren();
  append(box, [children]);
  for (const node of keyed()) {
    if (open.has(node.dataset.key)) node.open = true;
    if (focused !== undefined && node.dataset.key === focused) node.focus();
  }
}

// More that is shown on demand.
export function more(key, words, ...children) {
  return el("details", { data: { key } }, el("summary", { data: { key: `${key} summary` } }, words), children);
}

// A section with a heading; `show(data, build)` builds its body anew only when the data changed.
export function card(title, { id, wide = false, note = "" } = {}) {
  const heading = el("h2", { id: `${id}-title` }, title);
  const body = el("div", { class: "body" });
  const section = el(
    "section",
    { class: wide ? "card wide" : "card", id, "aria-labelledby": `${id}-title` },
    el("div", { class: "card-head" }, heading),
    note && el("p", { class: "note" }, note),
    body,
  );
  let shown;
  function show(data, build) {
    const key = JSON.stringify(data);
    if (key === shown) return;
    shown = key;
    refill(body, build(data));
  }
  return { section, heading, head: section.firstChild, body, show };
}

// Cards in two columns of one width, each put below the shorter one. They are put anew until their first contents have
// come, or the window's width changes, and then stay where they are. On a narrow window they keep their order.
export function columns(sections) {
  const sides = [el("div", { class: "column" }), el("div", { class: "column" })];
  const box = el("div", { class: "columns even" }, sides);
  const settle_ms = 3000;
  const began = performance.now();
  let width = 0;
  sides[0].append(...sections);
  const watch = new ResizeObserver(() => {
    const now = box.clientWidth || 1;
    if (now === width && performance.now() - began > settle_ms) return;
    width = now;
    place();
  });
  function place() {
    const heights = sections.map((section) => section.getBoundingClientRect().height);
    const sums = [0, 0];
    const narrow = matchMedia("(max-width: 899px)").matches;
    const columns = sections.map((_, at) => {
      const side = narrow || sums[0] <= sums[1] ? 0 : 1;
      sums[side] += heights[at] + 14;
      return side;
    });
    sides.forEach((side, number) => {
      const wanted = sections.filter((_, at) => columns[at] === number);
      if (wanted.length !== side.children.length || wanted.some((section, at) => side.children[at] !== section)) side.replaceChildren(...wanted);
    });
  }
  for (const node of [box, ...sections]) watch.observe(node);
  return { box, close: () => watch.disconnect() };
}

export const empty = (words) => el("p", { class: "empty" }, words);

// A table. `columns`: [{ name, of: row => child, title?, number?: true, minor?: true }]. Where there is little room each row
// becomes a card (`tight`: in few lines, without what is minor); the roles keep it a table for a screen reader although
// its boxes are blocks then.
export function table(caption, columns, rows, { stacked = true, tight = false, row: mark = () => ({}) } = {}) {
  const kind = ({ number, minor }, value) => [number && "number", minor && "minor", value === "–" && "none"].filter(Boolean).join(" ");
  const head = columns.map((column) => el("th", { scope: "col", role: "columnheader", class: kind(column), title: column.title }, column.name));
  const lines = rows.map((row) =>
    el(
      "tr",
      { role: "row", ...mark(row) },
      columns.map((column, index) => {
        const value = column.of(row);
        const place = index ? { role: "cell" } : { scope: "row", role: "rowheader" };
        return el(index ? "td" : "th", { ...place, class: kind(column, value), data: { label: column.name } }, value);
      }),
    ),
  );
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    el(
      "table",
      { role: "table", class: stacked ? (tight ? "stacked tight" : "stacked") : null },
      el("caption", { class: "hidden" }, caption),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
      el("tbody", { role: "rowgroup" }, lines),
    ),
  );
}

// Lines of a list that is shown a page at a time: fewer where each takes much of the screen.
export const pageful = () => (matchMedia("(max-width: 700px)").matches ? 10 : 50);

// Names and values: [[name, child, note?], …].
export function figures(pairs, name = "figures") {
  return el(
    "dl",
    { class: name },
    pairs
      .filter((pair) => pair)
      .map(([term, value, note]) =>
        el("div", {}, el("dt", {}, term), el("dd", { data: { figure: term } }, value, note && el("small", {}, note))),
      ),
  );
}

// A value of a table with a note below it: one box, so that a card on a phone keeps them together.
export const pair = (value, note) => el("span", { class: "pair" }, value, note && el("small", {}, note));

export const badge = (words, kind = "plain") => el("span", { class: `badge ${kind}` }, words);

// A select with a visible label.
export function chooser(label, options, chosen, choose) {
  const select = el(
    "select",
    { "aria-label": label, on: { change: () => choose(select.value) } },
    options.map(([value, words]) => el("option", { value, selected: value === chosen }, words)),
  );
  return el("label", { class: "chooser" }, el("span", {}, label), select);
}

// An input with a visible label.
export function field(label, type, wish) {
  const input = el("input", { type, "aria-label": label, on: { change: () => wish(input.value) } });
  return el("label", { class: "chooser" }, el("span", {}, label), input);
}
