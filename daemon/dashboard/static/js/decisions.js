// The list of decisions, newest first, by outcome, a page at a time. The first page grows with new decisions.

import { card, chooser, el, empty, field, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { clock, day, number, percent, words } from "./format.js";
import { opening, outcome, trouble } from "./parts.js";

export const title = "Decisions";
const LIMIT = 50;
const OUTCOMES = ["acted", "", "hold", "ordered", "exit", "denied", "expired", "failed"];
const named = (outcome) => (outcome === "acted" ? "ordered or exit" : outcome ? words(outcome) : "all");

export function mount(main, { desk, address }) {
  const problems = trouble();
  const list = card("Newest first", { id: "list" });
  const pager = el("p", { class: "pager" });
  let wished = OUTCOMES[0];
  let until = ""; // a New York day, "" for the newest
  let before = [""]; // of each page so far: below which number it begins
  let known = -1;
  const lines = resource(
    (signal) => ask("decisions", { desk, before: before.at(-1), limit: LIMIT, outcome: wished, day: until }, signal),
    show,
    problems.fail,
    1000,
  );
  const filter = chooser("Outcome", OUTCOMES.map((name) => [name, named(name)]), wished, (name) => {
    wished = name;
    before = [""];
    lines.refresh(true);
  });
  const upTo = field("Up to", "date", (day) => {
    until = day;
    before = [""];
    lines.refresh(true);
  });
  list.head.append(el("div", { class: "choosers" }, filter, upTo));
  main.append(...opening("Decisions", "What the policy, or a rule such as the stop-loss, decided, and what became of it. Came to: where the action meant something else with what was held then."), problems.box, list.section, pager);

  const turn = (words, act) =>
    el("button", { type: "button", data: { key: words }, on: { click: () => (act(), lines.refresh(true)) } }, words);

  function show(data) {
    problems.fine();
    list.show(data, () => (data.length ? rows(data, address) : empty(wished ? `No decision with the outcome ${named(wished)}.` : "No decision yet.")));
    pager.replaceChildren(
      ...[
        before.length > 1 && turn("Newer", () => before.pop()),
        el("span", {}, `Page ${before.length}`),
        data.length === LIMIT && turn("Older", () => before.push(data.at(-1).decision)),
      ].filter(Boolean),
    );
  }

  lines.refresh();
  return {
    update(now) {
      if (now.decision !== known && before.length === 1) lines.refresh();
      known = now.decision;
    },
    close: () => lines.close(),
  };
}

function rows(data, address) {
  return table(
    "Decisions",
    [
      { name: "Decision", of: (line) => el("a", { href: address("decision", [line.decision]), data: { key: `${line.decision}` } }, number(line.decision)) },
      { name: "Time", of: (line) => [clock(line.time), " ", el("small", {}, day(line.time))] },
      { name: "By", minor: true, of: (line) => words(line.kind) },
      { name: "Action", of: (line) => words(line.action) || "no answer" },
      { name: "Came to", of: (line) => (line.resolved === line.action ? "–" : words(line.resolved) || "–") },
      { name: "Confidence", number: true, of: (line) => (line.confidence ? percent(line.confidence) : "–") },
      { name: "Outcome", of: (line) => outcome(line.outcome) },
      { name: "Denied by", of: (line) => line.denied_by.map(words).join(", ") || "–" },
      { name: "Model", minor: true, of: (line) => (line.model ? el("code", {}, line.model) : "–") },
    ],
    data,
    { tight: true, row: (line) => ({ data: { decision: line.decision } }) },
  );
}
