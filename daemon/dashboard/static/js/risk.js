// Risk: the gates as they stand, limits and what is used of them, denials, commands and alarms.

import { card, columns, el, empty, more } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, number, percent, words } from "./format.js";
import { gates } from "./gates.js";
import { alarms, opening, raised, trouble } from "./parts.js";

export const title = "Risk";

export function mount(main, { desk }) {
  const problems = trouble();
  const limits = card("Limits, and what is used of them", { id: "limits" });
  const gate = card("Gates for a new entry", {
    id: "gates",
    note: "Each must pass before anything is opened; exits are never kept back by them.",
  });
  const denials = card("Denied so far, by gate", { id: "denials" });
  const commands = card("Commands of operators", { id: "commands" });
  const alarm = card("Alarms", { id: "alarms" });
  const cards = columns([limits, gate, alarm, denials, commands].map((one) => one.section));
  main.append(
    ...opening("Risk"),
    problems.box,
    cards.box,
  );
  const page = resource((signal) => ask("risk", { desk }, signal), show, problems.fail, 3000);
  page.refresh();

  function show(data) {
    problems.fine();
    limits.show(data.limits, (all) => (all.length ? used(all) : empty("No limit is known yet.")));
    gate.show(data.gates, (all) => gates(all, { now: true }));
    denials.show(data.denials, (all) => (all.length ? denied(all) : empty("Nothing was denied since the journal began.")));
    commands.show(data.commands, (all) => alarms(all, "No command was given."));
    alarm.show([data.raised, data.earlier], ([now, before]) => [
      raised(now, "No alarm."),
      before.length > 0 && more("earlier", `On earlier days: ${number(before.reduce((sum, line) => sum + line.count, 0))}`, raised(before, "")),
    ]);
  }
  return { update: () => page.refresh(), close };

  function close() {
    page.close();
    cards.close();
  }
}

function used(lines) {
  return el(
    "ul",
    { class: "bars limits" },
    lines.map((limit) => {
      const kind = limit.share >= 1 ? "over" : limit.share >= 0.8 ? "near" : "";
      const use = limit.share >= 1 ? "reached" : `${percent(Math.max(0, limit.share), 0)} used`;
      return el(
        "li",
        { class: kind, data: { limit: limit.name, share: limit.share } },
        el("span", { class: "bar-name" }, words(limit.name)),
        el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: { width: `${Math.min(100, Math.max(0, 100 * limit.share))}%` } })),
        el("span", { class: "bar-value" }, use),
        el("span", { class: "bar-note" }, `${limit.value} of ${limit.limit}`),
      );
    }),
  );
}

function denied(pairs) {
  const most = pairs[0][1];
  return el(
    "ul",
    { class: "bars" },
    pairs.map(([name, times]) =>
      el(
        "li",
        { data: { gate: name, count: times } },
        el("span", { class: "bar-name" }, words(name)),
        el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: { width: `${(100 * times) / most}%` } })),
        el("span", { class: "bar-value" }, number(times), el("span", { class: "hidden" }, ` ${count(times, "time").split(" ")[1]}`)),
      ),
    ),
  );
}
