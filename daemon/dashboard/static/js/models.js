// The model store and the models in the journal: versions, the candidate's answers, swaps and refusals.

import { badge, card, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, number, percent, words } from "./format.js";
import { alarms, opening, trouble } from "./parts.js";

export const title = "Models";

export function mount(main, { desk }) {
  const problems = trouble();
  const versions = card("Versions in the store", { id: "versions", wide: true });
  const shadows = card("Candidate and live model", {
    id: "shadows",
    wide: true,
    note: "A candidate answers the same questions for the record; nothing is ordered for it.",
  });
  const swaps = card("Swaps and refusals", { id: "swaps", wide: true });
  main.append(...opening("Models"), problems.box, versions.section, shadows.section, swaps.section);
  const page = resource((signal) => ask("models", { desk }, signal), show, problems.fail, 5000);
  page.refresh();

  function show(data) {
    problems.fine();
    versions.show([data.store, data.versions], () => [
      el("p", { class: "note" }, "Store: ", el("code", {}, data.store || "not given")),
      data.versions.length ? store(data.versions) : empty("The store has no version of this strategy, or was not given (--models-dir)."),
    ]);
    shadows.show(data.shadows, (all) => (all.length ? compared(all) : empty("No candidate has answered yet.")));
    swaps.show(data.swaps, (all) => alarms(all, "No model was swapped or refused since the journal began."));
  }
  return { update: () => page.refresh(), close: () => page.close() };
}

function flags(line) {
  const all = [
    line.running && badge("answers now", "good"),
    line.current && badge("current", "plain"),
    line.candidate && badge("candidate", "plain"),
    line.promoted && badge("may trade real money", "good"),
    line.problem && badge("unreadable", "bad"),
  ].filter(Boolean);
  return all.length ? el("span", { class: "badges" }, all) : "–";
}

function store(lines) {
  return table(
    "Versions",
    [
      { name: "Version", of: (line) => el("code", {}, line.version) },
      { name: "Flags", of: flags },
      { name: "Trained on", of: (line) => line.trained_on || "–" },
      { name: "Last session seen", of: (line) => line.last_session || "–" },
      { name: "Metrics", of: (line) => line.problem || metrics(line) },
    ],
    lines,
    { row: (line) => ({ data: { version: line.version } }) },
  );
}

function metrics({ version, metrics: pairs }) {
  if (!pairs.length) return "none";
  const all = figures(pairs.map(([name, value]) => [words(name), value]), "figures small");
  return more(`metrics ${version}`, count(pairs.length, "figure"), all);
}

function compared(lines) {
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
