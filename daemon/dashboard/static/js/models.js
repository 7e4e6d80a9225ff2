// The model store and the models in the journal: versions, the candidate's answers, swaps and refusals.

import { badge, card, chooser, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, number, percent, signed, words } from "./format.js";
import { alarms, opening, trouble } from "./parts.js";

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

  // Two versions: those chosen, else the one that answers and the candidate, or the newest other one.
  function besides() {
    const names = known.map((line) => line.version);
    compared.section.hidden = names.length < 2;
    if (names.length < 2) return;
    const first = known.find((line) => line.running || line.current) ?? known[0];
    const other = known.find((line) => line !== first && line.candidate) ?? known.find((line) => line !== first);
    pair = [first, other].map((line, place) => (names.includes(pair[place]) ? pair[place] : line.version));
    const pickers = pair.map((version, place) =>
      chooser(place ? "With" : "Compare", names.map((name) => [name, name]), version, (name) => choose(place, name)),
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
    versions.show([data.store, data.versions], () => [
      el("p", { class: "note" }, "Store: ", el("code", {}, data.store || "not given")),
      data.versions.length ? store(data.versions) : empty("The store has no version of this strategy, or was not given (--models-dir)."),
    ]);
    shadows.show(data.shadows, (all) => (all.length ? candidates(all) : empty("No candidate has answered yet.")));
    swaps.show(data.swaps, (all) => alarms(all, "No model was swapped or refused since the journal began."));
  }
  return { update: () => page.refresh(), close: () => page.close() };
}

function flags(line) {
  const all = [
    line.running && badge("answers now", "good"),
    line.current && badge("current", "plain"),
    line.candidate && badge("candidate", "plain"),
    !line.problem && (line.promoted ? badge("may trade real money", "good") : badge("not promoted", "warn")),
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
      { name: "Verdict of its training", of: (line) => el("small", {}, line.verdict || "–") },
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

// What two manifests say, a line each; what differs comes with the difference where both are numbers.
function sideBySide(one, other) {
  const about = [
    ["Flags", flags(one), flags(other), ""],
    ["Verdict of its training", el("small", { class: "text" }, one.verdict || "–"), el("small", { class: "text" }, other.verdict || "–"), ""],
    ["Trained on", el("span", { class: "text" }, one.trained_on || "–"), el("span", { class: "text" }, other.trained_on || "–"), ""],
    ["Last session seen", one.last_session || "–", other.last_session || "–", ""],
  ];
  const [left, right] = [one, other].map((line) => new Map(line.metrics));
  const lines = [...new Set([...left.keys(), ...right.keys()])].map((name) => {
    const [a, b] = [left.get(name), right.get(name)];
    return [words(name), a ?? "–", b ?? "–", difference(a, b)];
  });
  return table(
    "Two versions",
    [
      { name: "Figure", of: ([name]) => name },
      { name: one.version, number: true, of: (line) => line[1] },
      { name: other.version, number: true, of: (line) => line[2] },
      { name: "Difference", number: true, of: (line) => line[3] || "–" },
    ],
    [...about, ...lines],
    { row: ([name]) => ({ data: { compared: name } }) },
  );
}

function difference(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (!a || !b || Number.isNaN(x) || Number.isNaN(y)) return a === b ? "" : "differs";
  return x === y ? "" : signed(Number((y - x).toPrecision(4)), 6).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
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
