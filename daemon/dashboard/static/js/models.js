// The model store and the models in the journal: versions, the candidate's answers, swaps and refusals.

import { badge, card, chooser, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, dated, number, percent, usd, words } from "./format.js";
import { alarms, answering, opening, trouble } from "./parts.js";

export const title = "Models";

export function mount(main, { desk }) {
  const problems = trouble();
  const versions = card("Versions in the store", { id: "versions", wide: true });
  const compared = card("Two versions side by side", { id: "compare", wide: true });
  const shadows = card("Candidate and live model", {
    id: "shadows",
    wide: true,
    note: "A candidate answers the same questions for the record; nothing is ordered for it.",
  });
  const swaps = card("Swaps and refusals", { id: "swaps", wide: true });
  main.append(...opening("Models"), problems.box, versions.section, compared.section, shadows.section, swaps.section);
  const page = resource((signal) => ask("models", { desk }, signal), show, problems.fail, 5000);
  let pair = ["", ""]; // the versions that are compared
  let known = [];
  page.refresh();

  function choose(place, version) {
    pair[place] = version;
    besides();
  }

  // Two versions: those chosen, else the store's current one and the desk's own; where they are one, that and the candidate,
  // or the newest other one.
  function besides() {
    const names = known.map((line) => line.version);
    compared.section.hidden = names.length < 2;
    if (names.length < 2) return;
    const first = known.find((line) => line.current) ?? known.find((line) => line.running) ?? known[0];
    const others = known.filter((line) => line !== first);
    const other = others.find((line) => line.running) ?? others.find((line) => line.candidate) ?? others[0];
    pair = [first, other].map((line, place) => (names.includes(pair[place]) ? pair[place] : line.version));
    const pickers = pair.map((version, place) =>
      chooser(`Version ${"AB"[place]}`, names.map((name) => [name, name]), version, (name) => choose(place, name)),
    );
    compared.show([known, pair], () => [
      el("div", { class: "choosers" }, pickers),
      sideBySide(...pair.map((version) => known.find((line) => line.version === version))),
    ]);
  }

  function show(data) {
    problems.fine();
    known = data.versions.filter((line) => !line.problem);
    besides();
    versions.show([data.store, data.versions, data.live], () => [
      el("p", { class: "note" }, "Store: ", el("code", {}, data.store || "not given"), whatIsCurrent(data)),
      data.versions.length ? [store(data.versions, data.live), commands(data.store, data.versions)] : empty("The store has no version of this strategy, or was not given (--models-dir)."),
    ]);
    shadows.show(data.shadows, (all) => (all.length ? candidates(all) : empty("No candidate has answered yet.")));
    swaps.show(data.swaps, (all) => alarms(all, "No model was swapped or refused since the journal began."));
  }
  return { update: () => page.refresh(), close: () => page.close() };
}

function flags(line, live) {
  const all = [
    line.running && answering(live),
    line.current && badge("current", "plain"),
    line.candidate && badge("candidate", "plain"),
    !line.problem && (line.promoted ? badge("may trade real money", "good") : badge("not promoted", "warn")),
    line.problem && (line.absent ? badge("not in the store", "warn") : badge("unreadable", "bad")),
  ].filter(Boolean);
  return all.length ? el("span", { class: "badges" }, all) : "–";
}

// Why another version is current than the one that answers, or answered last.
function whatIsCurrent({ versions: lines, live }) {
  const [own, named] = [lines.find((line) => line.running), lines.find((line) => line.current)];
  if (!own || !named || own === named) return "";
  return `. Its “current” is for desks that name no version. This desk ${live ? "answers" : "answered last"} by ${own.version}.`;
}

function store(lines, live) {
  return table(
    "Versions",
    [
      { name: "Version", of: (line) => el("code", {}, line.version) },
      { name: "Flags", of: (line) => flags(line, live) },
      { name: "Verdict of its training", of: (line) => el("small", {}, line.verdict || "–") },
      { name: "Claim on this desk", of: (line) => el("small", {}, line.claim || "none") },
      { name: "Trained on", of: (line) => dated(line.trained_on) || "–" },
      { name: "Last session seen", of: (line) => dated(line.last_session) || "–" },
      { name: "Metrics", of: (line) => line.problem || metrics(line) },
    ],
    lines,
    { row: (line) => ({ data: { version: line.version } }) },
  );
}

// The six figures that one asks for first, of the last fold's test sessions; the others behind their number.
const KEY = ["net return", "max drawdown", "sharpe annual", "trades", "win rate", "fees usd"].map((name) => `test ${name}`);
const PARTS = /(return|drawdown|win rate|hit rate|exposure|deviation|worst session)$/;
const AMOUNT = /usd$/;

const RATE = /(win rate|hit rate)$/;

// The figures of a manifest by name; without a trade there is no rate.
function figuresOf(line) {
  const all = new Map(line.metrics);
  for (const name of all.keys()) if (RATE.test(name) && all.get(name.replace(RATE, "trades")) === "0") all.set(name, "");
  return all;
}

// A figure's name as people say it: "sharpe annual" -> "Sharpe ratio a year", "fees usd" -> "fees".
const SAID = [
  [/\b(sharpe|sortino|calmar)\b( ratio)?/, (name) => `${name[0].toUpperCase()}${name.slice(1).replace(" ratio", "")} ratio`],
  [/ annual$/, " a year"], [/ usd\b/, ""], [/\bpnl\b/, "P&L"], [/ pct$/, " in %"], [/ s$/, " in seconds"], [/ bp$/, " in basis points"],
];
export const label = (name) => SAID.reduce((text, [part, plain]) => text.replace(part, plain), words(name));

function metrics(line) {
  const known = figuresOf(line);
  if (!known.size) return "none";
  const key = KEY.filter((name) => known.has(name));
  const rest = [...known].filter(([name]) => !key.includes(name));
  const sessions = known.get("test sessions");
  const list = (names) => figures(names.map(([name, value, called = name]) => [label(called), figure(name, value)]), "figures small");
  return el(
    "div",
    {},
    key.length > 0 && el("small", {}, sessions ? `On the ${count(Number(sessions), "test session")} of the last fold:` : "On the test sessions of the last fold:"),
    key.length > 0 && list(key.map((name) => [name, known.get(name), name.replace(/^test /, "")])),
    rest.length > 0 && more(`metrics ${line.version}`, key.length ? `${count(rest.length, "other figure")}` : count(rest.length, "figure"), list(rest)),
  );
}

// A figure of a manifest in its unit: a share as a percentage, a drawdown below zero, USD with cents.
function figure(name, value) {
  const found = Number(value);
  if (value === undefined || value === "" || Number.isNaN(found)) return value || "–";
  if (/drawdown$/.test(name)) return percent(-Math.abs(found), 2);
  if (PARTS.test(name)) return percent(found, 2);
  if (AMOUNT.test(name)) return usd(found);
  return number(found, Number.isInteger(found) ? 0 : 3);
}

// What one types to let another version answer, and to go back to the one before.
function commands(store, lines) {
  const strategy = store.split("/").at(-1);
  const folder = store.slice(0, -strategy.length - 1);
  const of = `--strategy ${strategy} --models-dir ${folder}`;
  const other = lines.find((line) => !line.current && !line.problem);
  return more(
    "commands",
    "Commands and reports",
    el("p", {}, "Let a version answer: ", el("code", {}, `rltraderctl models activate ${other ? other.version : "VERSION"} ${of} --reason TEXT`)),
    el("p", {}, "Back to the one before: ", el("code", {}, `rltraderctl models rollback ${of} --reason TEXT`)),
    lines.map((line) => el("p", {}, "Report of its training: ", el("code", {}, `${store}/${line.version}/report.html`))),
  );
}

// Which way is better: up, or down; of other figures neither is.
const UP = /(return|sharpe annual|worst session|win rate|hit rate|accuracy|profit factor)$/;
const DOWN = /(drawdown|fees usd|log loss|brier|calibration error)$/;

// What two manifests say, a line each, and whether B is better than A where that can be said.
function sideBySide(one, other) {
  const all = [one, other].map(figuresOf);
  const lines = [...new Set(all.flatMap((known) => [...known.keys()]))].map((name) => {
    const [a, b] = all.map((known) => known.get(name));
    return [words(name), figure(name, a), figure(name, b), difference(name, a, b), all.every((known) => known.has(name))];
  });
  const shown = (caption, some) => table(
    caption,
    [
      { name: "Figure", of: ([name]) => label(name) },
      { name: "A", number: true, title: one.version, of: (line) => line[1] },
      { name: "B", number: true, title: other.version, of: (line) => line[2] },
      { name: "B against A", number: true, of: (line) => line[3] || "–" },
    ],
    some,
    { stacked: false, row: ([name]) => ({ data: { compared: name } }) },
  );
  const [both, alone] = [true, false].map((of) => lines.filter((line) => line[4] === of));
  return [
    both.length ? shown("Two versions", both) : empty("The two have no figure in common."),
    alone.length > 0 && more("alone", `${count(alone.length, "figure")} of one version alone`, shown("Figures of one version alone", alone)),
  ];
}

// By how much B is better or worse than A; the bare difference where neither way is better.
function difference(name, a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (!a || !b || x === y) return "";
  if (Number.isNaN(x) || Number.isNaN(y)) return a === b ? "" : "differs";
  const size = (value) => (PARTS.test(name) ? `${number(100 * value, 2)} points` : AMOUNT.test(name) ? usd(value) : number(value, 3, 0));
  const [from, to] = /drawdown$/.test(name) ? [Math.abs(x), Math.abs(y)] : [x, y];
  const better = UP.test(name) ? to > from : DOWN.test(name) ? to < from : null;
  if (better === null) return `${y > x ? "+" : "−"}${size(Math.abs(y - x))}`;
  return el("span", { class: better ? "good-text" : "bad-text" }, `${better ? "better" : "worse"} by ${size(Math.abs(to - from))}`);
}

function candidates(lines) {
  return table(
    "Candidates",
    [
      { name: "Candidate", of: (line) => el("code", {}, line.model) },
      { name: "Decisions", number: true, of: (line) => number(line.decisions) },
      { name: "Same action", number: true, of: (line) => percent(line.agreement) },
      { name: "Confidence, live", number: true, of: (line) => percent(line.confidence_live) },
      { name: "Confidence, candidate", number: true, of: (line) => percent(line.confidence_shadow) },
      { name: "Failures", number: true, of: (line) => number(line.failures) },
    ],
    lines,
  );
}
