// The list of decisions, newest first, by outcome, a page at a time. The first page grows with new decisions.

import { card, chooser, el, empty, field, pageful, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { clock, count, day, number, percent, usd, words } from "./format.js";
import { chosenAction, gain, opening, outcome, trouble } from "./parts.js";

export const title = "Decisions";
const OUTCOMES = ["acted", "", "hold", "ordered", "no_change", "exit", "denied", "expired", "failed"];
const NAMES = { acted: "with orders", "": "all", ordered: "entry or basket ordered", exit: "exit or trim", no_change: "passed, no order followed" };
const named = (outcome) => NAMES[outcome] ?? words(outcome);

export function mount(main, { desk, address }) {
  const problems = trouble();
  const list = card("Newest first", { id: "list" });
  const pager = el("p", { class: "pager" });
  const limit = pageful();
  let wished = OUTCOMES[0];
  let until = ""; // a New York day, "" for the newest
  let before = [""]; // of each page so far: below which number it begins
  let known = -1;
  const lines = resource(
    (signal) => ask("decisions", { desk, before: before.at(-1), limit: limit, outcome: wished, day: until }, signal),
    show,
    problems.fail,
    1000,
  );
  const none = (all) => (!all || !wished ? "No decision yet." : wished === OUTCOMES[0] ? "No decision with an order." : `No decision with the outcome ${named(wished)}.`);
  const filter = chooser("Outcome", OUTCOMES.map((name) => [name, named(name)]), wished, pick);
  const all = el("button", { type: "button", on: { click: () => ((filter.querySelector("select").value = ""), pick("")) } }, "Show all");
  const shares = el("p", { class: "pager", id: "shares" });
  const upTo = field("Up to", "date", (day) => {
    until = day;
    before = [""];
    lines.refresh(true);
  });
  list.head.append(el("div", { class: "choosers" }, filter, upTo));
  main.append(...opening("Decisions", "What the policy, or a rule such as the stop-loss, decided, and what became of it. An arrow: the action meant something else with what was held then. Realised: by the decision's own fills, after their fees (an entry realises its fees alone); below it the whole trade, where this ended one."), problems.box, shares, list.section, pager);

  function pick(name) {
    wished = name;
    before = [""];
    lines.refresh(true);
  }

  const turn = (words, act) =>
    el("button", { type: "button", data: { key: words }, on: { click: () => (act(), lines.refresh(true)) } }, words);

  function show(data) {
    problems.fine();
    const { lines: shown, total } = data;
    const first = (before.length - 1) * limit;
    const matching = total === null ? "more than 1,000" : number(total);
    const part = wished && `${matching} of ${count(data.of, "decision")} shown: ${named(wished)}.`;
    shares.replaceChildren(...(part ? [el("span", {}, part), all] : [el("span", {}, `All ${count(data.of, "decision")}.`)]));
    list.show(shown, () => (shown.length ? rows(shown, address) : empty(none(data.of))));
    pager.replaceChildren(
      ...[
        before.length > 1 && turn("Newer", () => before.pop()),
        shown.length > 0 && el("span", {}, `${number(first + 1)} to ${number(first + shown.length)} of ${matching}`),
        (total === null || total > first + shown.length) && shown.length > 0 && turn("Older", () => before.push(shown.at(-1).decision)),
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

// What is the same in every row is left out, or stands once above them.
function rows(data, address) {
  const models = new Set(data.map((line) => line.model).filter(Boolean));
  const columns = [
    { name: "Decision", of: (line) => el("a", { href: address("decision", [line.decision]), data: { key: `${line.decision}` } }, number(line.decision)) },
    { name: "Time", of: (line) => [clock(line.time), " ", el("small", {}, day(line.time))] },
    { name: "Action", of: action },
    data.some((line) => line.confidence) && { name: "Confidence", number: true, of: (line) => (line.confidence ? percent(line.confidence) : "–") },
    { name: "Outcome", of: outcome },
    data.some((line) => line.traded) && { name: "Orders", of: (line) => line.traded || "–" },
    data.some((line) => line.realised_usd !== null) && { name: "Realised", number: true, of: (line) => [gain(line.realised_usd), line.closed_usd !== null && el("small", {}, ` trade ${usd(line.closed_usd, { sign: true })}`)] },
    data.some((line) => line.denied_by.length) && { name: "Denied by", of: (line) => line.denied_by.map(words).join(", ") || "–" },
    models.size > 1 && { name: "Model", minor: true, of: (line) => (line.model ? el("code", {}, line.model) : "–") },
  ].filter(Boolean);
  return [
    models.size === 1 && el("p", { class: "note" }, "Model ", el("code", {}, [...models][0])),
    table("Decisions", columns, data, { tight: true, row: (line) => ({ data: { decision: line.decision } }) }),
  ];
}

const action = (line) => [chosenAction(line), line.kind === "rule" && el("small", {}, " by a rule")];
