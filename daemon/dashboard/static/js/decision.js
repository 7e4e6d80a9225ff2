// One decision in full: observation, contribution of each input, answer, gates, orders.
// Previous and next by buttons and arrow keys; play walks through the past, faster or slower.

import { interval, priceChart } from "./charts.js";
import { card, chooser, el, empty, figures, more, pair, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { clock, count, day, moment, number, output, percent, quantity, reading, signed, span, usd, words } from "./format.js";
import { gates } from "./gates.js";
import { headTables } from "./heads.js";
import { heatmap } from "./heatmap.js";
import { layout, plainList } from "./observation.js";
import { followed } from "./orders.js";
import { chosenAction, continuous, gain, leaning, opening, outcome, probabilities, sentence, trouble } from "./parts.js";

export const title = "Decision";
const AGAIN_MS = 700;
const REASONS = 3;
const SPEEDS = [["2000", "every 2 s"], ["1000", "every second"], ["400", "fast"]];

export function mount(main, { desk, address, go }, first) {
  const problems = trouble();
  const [heading] = opening("Decision");
  const summary = card("In short", { id: "summary", wide: true });
  const seen = card("What the policy saw", { id: "observation", wide: true });
  const parts = card("What mattered: occlusion", { id: "contributions" });
  const answer = card("The answer", { id: "answer" });
  const gate = card("Gates", { id: "gates" });
  const orders = card("Orders and fills", { id: "orders" });
  const ended = card("How it ended", { id: "ended", wide: true });
  const price = around(desk, (number) => go("decision", [number]));
  const heads = card("What the policy says of each symbol", { id: "heads", wide: true });
  const shadow = card("The candidate's answer", { id: "shadow" });
  let wanted = Number(first) || 0;
  let page = null;
  let mode = "values"; // of the heat map
  let playing = 0;
  let pause_ms = "1000";
  let again = 0;
  let map = null;

  const lines = resource((signal) => ask(`decision/${wanted}`, { desk }, signal), show, failed, 0);
  const step = (words, key, act) => el("button", { type: "button", "aria-keyshortcuts": key, on: { click: act } }, words);
  const back = step("← Previous", "ArrowLeft", () => turn(page?.previous));
  const play = step("Play", "Space", toggle);
  const on = step("Next →", "ArrowRight", () => turn(page?.next));
  const controls = el(
    "div",
    { class: "controls", role: "group", "aria-label": "Walk through the decisions" },
    back,
    play,
    on,
    chooser("Speed", SPEEDS, pause_ms, (value) => (pause_ms = value)),
  );
  const sections = [
    summary.section,
    price.section,
    ended.section,
    heads.section,
    el(
      "div",
      { class: "columns even" },
      el("div", { class: "column" }, answer.section, shadow.section),
      el("div", { class: "column" }, gate.section, orders.section),
    ),
    seen.section,
    parts.section,
  ];
  main.append(heading, controls, problems.box, ...sections);
  addEventListener("keydown", keys);
  addEventListener("themechange", repaint);
  lines.refresh();

  function failed(problem) {
    stop();
    if (problem.status !== 404) {
      problems.fail(problem);
      return;
    }
    for (const part of sections) part.hidden = true;
    heading.textContent = "No such decision";
    problems.say(`This journal has no decision ${wanted || first}. `, el("a", { class: "action", href: address("decisions") }, "All decisions"));
  }

  function turn(number) {
    if (number) go("decision", [number]);
  }

  function toggle() {
    if (playing) stop();
    else {
      playing = 1;
      play.textContent = "Pause";
      if (page && !page.pending) next();
    }
  }

  function stop() {
    clearTimeout(playing);
    playing = 0;
    play.textContent = "Play";
  }

  function next() {
    clearTimeout(playing);
    if (!page.next) stop();
    else playing = setTimeout(() => turn(page.next), Number(pause_ms));
  }

  function keys(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, input, textarea")) return;
    if (event.key === "ArrowLeft") turn(page?.previous);
    else if (event.key === "ArrowRight") turn(page?.next);
    else if (event.key === " " && !event.target.closest("button, a, summary, td")) {
      event.preventDefault();
      toggle();
    }
  }

  function repaint() {
    map?.shade();
    map?.legend.explain(mode);
  }

  function show(data) {
    problems.fine();
    page = data;
    heading.textContent = `Decision ${number(data.line.decision)}`;
    back.disabled = !data.previous;
    on.disabled = !data.next;
    for (const part of sections) part.hidden = false;
    summary.show([data.line, data.contribution, data.pending, data.missing], () => [inShort(data.line), reasons(data)]);
    answer.show([data.probabilities, data.logits, data.target, data.line.action, !!data.heads, data.overlay], () => given(data));
    gate.show(data.gates, (all) => gates(all, { none: "No gate was asked: nothing was to be ordered.", unknown: "not asked", of: "what was wanted" }));
    orders.show([data.orders, data.line.became], ([all, became]) => followed(all, became));
    shadow.show(data.shadow, shadowed);
    price.show(data.line, (trades) => ended.show([trades, data.line.outcome], () => outcomes(trades, data.line)));
    heads.section.hidden = !data.heads;
    heads.show(data.heads, headTables);
    seen.show([data.rows, data.contribution?.cells, data.pending, data.missing], () => observation(data));
    parts.show([data.contribution, data.pending, data.missing], () => contributions(data));
    clearTimeout(again);
    if (data.pending) again = setTimeout(() => lines.refresh(), AGAIN_MS);
    else if (playing) next();
  }

  function observation(data) {
    map = null;
    if (data.pending && !data.rows.length) return empty("Still being computed: the desk is replayed up to this decision.");
    if (!data.rows.length) return empty(data.missing || "No observation: this was decided by a rule.");
    const { matrix, plain } = layout(data);
    const radios = matrix?.cells && el("fieldset", { class: "choice" }, el("legend", { class: "hidden" }, "What the cells show"), radio("values", "Values"), radio("cells", "Contribution of each cell"));
    if (matrix) map = heatmap(matrix, { caption: `Observation: ${matrix.rows.length} rows of ${matrix.columns.length} inputs` });
    if (map && !matrix.cells) mode = "values";
    map?.mode(mode);
    queueMicrotask(repaint);
    return [
      matrix?.corner === "bar" && el("p", { class: "note" }, "One row for each bar, the newest at the bottom; one column for each feature."),
      radios,
      map?.legend.box,
      map?.node,
      plain.length > 0 && plainList(plain),
    ];
  }

  function radio(value, words) {
    const input = el("input", { type: "radio", name: "cells", value, checked: mode === value, data: { key: value }, on: { change: () => choose(value) } });
    return el("label", {}, input, words);
  }

  function choose(value) {
    mode = value;
    map.mode(mode);
    map.legend.explain(mode);
  }

  return {
    route(number) {
      wanted = Number(number) || 0;
      clearTimeout(again);
      lines.refresh();
    },
    close() {
      stop();
      clearTimeout(again);
      lines.close();
      price.close();
      removeEventListener("keydown", keys);
      removeEventListener("themechange", repaint);
    },
  };
}

// The price around a decision: its own answer, asked for again with each decision and symbol.
function around(desk, open) {
  const box = card("The price around it", { id: "around", wide: true });
  const canvas = el("div", { class: "chart low", role: "img", "aria-label": "No bar yet." });
  const none = empty("The journal has no bar of this time.");
  const choose = el("div", { class: "choosers" });
  box.head.append(choose);
  box.body.append(canvas, none);
  const chart = priceChart(canvas, open);
  let line = null;
  let symbol = "";
  let tell = () => {};
  const answer = resource((signal) => ask(`around/${line.decision}`, { desk, symbol }, signal), shown, () => {}, 0);

  function shown(data) {
    none.hidden = data.bars.length > 0;
    canvas.hidden = !data.bars.length;
    box.heading.textContent = data.bars.length ? `${data.symbol}, ${interval(data.bars)}, around the decision` : "The price around it";
    chart.show({ ...data, session: `around ${moment(line.time)}`, decided: line.bar || line.time });
    const key = JSON.stringify([data.symbols, data.symbol]);
    if (data.symbols.length > 1 && choose.dataset.key !== key) {
      choose.dataset.key = key;
      choose.replaceChildren(
        chooser("Symbol", data.symbols.map((name) => [name, name]), data.symbol, (name) => {
          symbol = name;
          answer.refresh(true);
        }),
      );
    }
    tell(data.trades);
  }

  return {
    section: box.section,
    show(now, then) {
      tell = then;
      if (line?.decision === now.decision) return;
      line = now;
      symbol = "";
      answer.refresh(true);
    },
    close() {
      answer.close();
      chart.close();
    },
  };
}

// The round trips that the decision opened, changed or closed; of a basket the largest gains and losses first.
function outcomes(trades, line) {
  if (!trades.length) return empty(line.outcome === "ordered" || line.outcome === "exit" ? "None of its orders moved a position." : "It traded nothing.");
  const closed = trades.filter((trade) => trade.left);
  const total = trades.reduce((sum, trade) => sum + (trade.pnl_usd ?? 0), 0);
  return [
    trades.length > 1 &&
      el("p", { class: "headline" }, `It took part in ${count(trades.length, "round trip")}, ${number(closed.length)} closed; together `, gain(total)),
    table(
      "Round trips of this decision",
      [
        { name: "Trade", of: (trade) => trade.what },
        { name: "P&L", number: true, of: (trade) => gain(trade.pnl_usd, trade.pnl_percent) },
        { name: "This decision", of: (trade) => part(trade, line.decision) },
        { name: "Entered", of: (trade) => pair(moment(trade.entered), usd(trade.entry)) },
        { name: "Left", of: (trade) => (trade.left ? pair(moment(trade.left), `${usd(trade.exit)}, ${words(trade.why_left)}`) : "still held") },
        { name: "Held", number: true, of: (trade) => span(trade.held_s) },
      ],
      trades,
      { row: (trade) => ({ data: { ended: trade.symbol } }) },
    ),
  ];
}

const part = (trade, number) =>
  [trade.entry_decision === number && "opened it", trade.exit_decision === number && "closed it"].filter(Boolean).join(", ") || "changed it";

function inShort(line) {
  return figures([
    ["Action", chosenAction(line)],
    line.confidence > 0 && ["Confidence", percent(line.confidence)],
    ["Outcome", outcome(line), line.denied_by.length ? `by ${line.denied_by.map(words).join(", ")}` : ""],
    ["Decided", moment(line.time), `on the bar of ${clock(line.bar).startsWith("00:00:00") ? day(line.bar) : clock(line.bar)}`],
    ["By", line.kind === "rule" ? "a rule" : words(line.kind), line.model && `model ${line.model}`],
  ]);
}

// Why, in three lines at most: what became of it and by what, then the inputs on which the answer depended most.
function reasons(data) {
  const lines = data.line.why.map(sentence);
  const found = data.contribution;
  if (found) {
    const largest = found.features.map((part, place) => [part, place]).filter(([part]) => part !== 0).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
    const of = continuous(data.probabilities) ? found.of : output(found.of);
    for (const [part, place] of largest) lines.push(`${data.features[place]}, now ${reading(data.rows.at(-1)?.[place])}, ${part > 0 ? "supported" : "opposed"} ${of} (${signed(part, 3)}).`);
    if (!largest.length) lines.push(`The answer for ${of} depends on no single input.`);
  } else if (data.pending) lines.push("What mattered to the policy is still being computed.");
  return lines.length > 0 && [el("h3", {}, "Why"), el("ol", { class: "why" }, lines.slice(0, REASONS).map((text) => el("li", {}, text)))];
}

function given(data) {
  const aims = target(data.target);
  return [
    data.heads && !data.probabilities.length ? empty("It answers for each symbol: see above.") : probabilities(data.probabilities, data.line.action),
    data.logits.length > 0 && !data.heads?.choices.length &&
      more(
        "logits",
        continuous(data.probabilities) ? "Raw outputs" : "Logits, before temperature and softmax",
        el(
          "ul",
          { class: "plain-list" },
          data.logits.map((value, index) => el("li", { data: { logit: value } }, `${words(data.probabilities[index]?.action ?? `output ${index}`)} ${signed(value, 4)}`)),
        ),
      ),
    aims && el("h3", {}, "Target: what is to be held"),
    aims,
    data.overlay.length > 0 && el("h3", {}, "Risk overlay"),
    data.overlay.length > 0 && el("ul", { class: "plain-list", id: "overlay" }, data.overlay.map((text) => el("li", {}, text))),
  ];
}

// The target is the strategy's own JSON: what to hold. Names and values, or the text as it is.
function target(text) {
  if (!text) return null;
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    return el("p", {}, text);
  }
  if (parsed === null || typeof parsed !== "object") return el("p", {}, String(parsed));
  const flat = (value) => (value !== null && typeof value === "object" ? Object.values(value).join(" ") : String(value));
  if (typeof parsed.percent === "number") return contracts(parsed);
  if (!Array.isArray(parsed)) return figures(Object.entries(parsed).map(([name, value]) => [words(name), flat(value)]), "figures small");
  if (!parsed.length) return el("p", {}, "Nothing is to change.");
  const leg = (one) => (one !== null && "goal" in Object(one) ? `${quantity(one.goal)} ${one.symbol}` : flat(one));
  const list = el("ul", { class: "plain-list inline" }, parsed.map((one) => el("li", {}, leg(one))));
  return parsed.length > 6 ? more("legs", `Shares of ${count(parsed.length, "symbol")}`, list) : list;
}

// Of a desk of options: which side, and how much of it (strategies/kit/contract.py, Target).
function contracts({ side, percent, keep }) {
  if (keep) return el("p", {}, "Nothing is to change.");
  if (!side || !percent) return el("p", {}, "Hold nothing.");
  return el("p", {}, `Hold ${side > 0 ? "calls" : "puts"}: ${percent} % of the full size when flat, else of what is held.`);
}

function shadowed(data) {
  if (!data) return empty("No candidate was asked.");
  if (data.problem) return el("p", {}, `${data.model} did not answer: ${data.problem}`);
  return figures(
    [
      ["Model", el("code", {}, data.model)],
      ["Action", words(data.action)],
      ["Confidence", percent(data.confidence)],
      ["Against the live model", data.agrees ? "the same action" : "another action"],
    ],
    "figures small",
  );
}

// Which number of the answer is explained, and in what unit its parts are.
function subject(data) {
  const { of } = data.contribution;
  if (continuous(data.probabilities)) return `the answer for ${of}, from −1 to +1`;
  return data.heads?.choices.length ? `the value of ${output(of)}` : `the logit of ${output(of)}`;
}

function contributions(data) {
  const found = data.contribution;
  if (!found) return empty(data.pending ? "Still being calculated." : data.missing || "None.");
  return [
    el(
      "p",
      { class: "note" },
      `Method: ${found.method}. Each input in turn is replaced by ${found.baseline}. The bar is how much lower the output `,
      el("b", {}, continuous(data.probabilities) ? found.of : output(found.of)),
      " is then. Right: the input supported it, left: it opposed it. It shows what this answer depends on, not why the market moves.",
    ),
    el("h3", {}, `${data.rows.length > 1 ? "A feature's whole column at once" : "One input at a time"}: its part of ${subject(data)}`),
    leaning(found.features.map((value, index) => [data.features[index] ?? `input ${index}`, value])),
  ];
}
