// A desk that learns: its trainer, its exploration, the newest choice, the ladder with each version's card, and the past
// transitions. For a desk that does not learn it says so.

import { badge, card, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { courseChart } from "./charts.js";
import { count, dated, moment, number, percent, signed, span, words } from "./format.js";
import { headTables } from "./heads.js";
import { answering, holding, opening, trouble } from "./parts.js";
import { transitions } from "./transitions.js";

export const title = "Learning";
const POINTS = 20; // newest ones of the course in the table
const OLD_S = 300; // a trainer writes every half minute
const CHARTED = ["loss", "error", "Q mean"];
const NAMES = { error: "TD error, mean absolute" };

export function mount(main, { desk, address }) {
  const problems = trouble();
  const trainer = card("The trainer", { id: "trainer", wide: true });
  const course = card("Course of learning", { id: "course", wide: true });
  const explored = card("Exploration", { id: "explored", note: "A choice is explored where the action taken is not the one with the largest value." });
  const levels = card("Cooldowns, stop-loss and take-profit", { id: "levels" });
  const weights = card("What the newest choice was made by", { id: "weights", wide: true });
  const ladder = card("The ladder", { id: "ladder", wide: true, note: "Each version with a card: where it stands, what it was compared with, and each journaled step." });
  const lineage = card("Lineage", { id: "lineage", wide: true, note: "Below each version those that were trained from it." });
  const canvas = el("div", { class: "chart low", role: "img", "aria-label": "Nothing learned yet." });
  const points = el("div", { id: "points" });
  const walk = transitions({ desk, address });
  course.body.append(canvas, points);
  const about = el("p", { class: "about" }, "What a trainer learns from this desk, and how a new version of the model earns its place.");
  const parts = [
    trainer.section,
    course.section,
    el("div", { class: "columns even" }, el("div", { class: "column" }, explored.section), el("div", { class: "column" }, levels.section)),
    weights.section,
    ladder.section,
    lineage.section,
    walk.section,
  ];
  main.append(...opening("Learning"), about, problems.box, ...parts);
  const curve = courseChart(canvas);
  const page = resource((signal) => ask("learning", { desk }, signal), show, problems.fail, 5000);
  page.refresh();

  function show(data) {
    problems.fine();
    for (const part of parts) part.hidden = !data.learns;
    if (!data.learns) {
      about.textContent = "This desk does not explore, and no version was ever put on a ladder: there is nothing to show.";
      return;
    }
    trainer.show([data.trainer, data.missing, data.frozen], () => trained(data));
    course.section.hidden = !data.trainer?.course.length;
    if (data.trainer?.course.length) {
      const names = Object.keys(data.trainer.course.at(-1).figures);
      curve.show(data.trainer.course, [...CHARTED.filter((name) => names.includes(name)), ...names.filter((name) => !CHARTED.includes(name))]);
      points.replaceChildren(pointTable(data.trainer.course.slice(-POINTS).reverse(), names));
    }
    for (const rung of data.rungs) rung.live = data.live;
    explored.show([data.exploration, data.explored], () => exploration(data));
    weights.show([data.decision, data.weights], () => chosen(data, address));
    ladder.show([data.rungs, data.held], () => rungs(data));
    lineage.show(data.rungs.map(({ version, parent, step, running, live }) => ({ version, parent, step, running, live })), tree);
    walk.begin();
  }

  return {
    update(now) {
      levels.show([now.gates, now.positions], () => bounds(now));
      page.refresh();
    },
    close() {
      page.close();
      curve.close();
      walk.close();
    },
  };
}

function trained({ trainer, missing, frozen }) {
  if (!trainer) return empty(missing);
  const named = trainer.figures.map(([name, value]) => [NAMES[name] ?? name, number(value, 6, 0)]);
  return [
    trainer.problem && el("p", { class: "trouble" }, `The trainer cannot go on: ${trainer.problem}`),
    (frozen || trainer.frozen) && el("p", { class: "trouble" }, `Learning is frozen${frozen ? `: ${frozen}` : ""}.`),
    trainer.age_s > OLD_S && el("p", { class: "trouble" }, `The trainer wrote nothing for ${span(trainer.age_s)}.`),
    !trainer.ours && trainer.stream && el("p", { class: "trouble" }, "It learns from another journal: ", el("code", {}, trainer.stream)),
    figures(
      [
        ["Written", `${span(trainer.age_s)} ago`, moment(trainer.written)],
        ["Learned up to row", number(trainer.row), trainer.ours ? `${count(trainer.behind, "row")} of the journal after it` : ""],
        ["Stream lag", trainer.waiting === null ? "unknown" : count(trainer.waiting, "entry", "entries"), "not read yet"],
        ["Pending", trainer.pending === null ? "unknown" : count(trainer.pending, "entry", "entries"), "read, and in no checkpoint yet"],
        ["Replay", number(trainer.replay), trainer.replay_most ? `of at most ${number(trainer.replay_most)} transitions` : ""],
        ["Transitions", number(trainer.transitions)],
        ["Updates", number(trainer.updates)],
        ["Newest version", el("code", {}, trainer.version || "none yet")],
        ...named,
        ...trainer.rewards.map(([name, value]) => [`Reward, ${words(name)}`, signed(value, 6), "sum since the last checkpoint"]),
      ],
      "figures small",
    ),
  ];
}

function pointTable(points, names) {
  return more(
    "points",
    `The newest ${count(points.length, "point")}`,
    table(
      "Course of learning",
      [
        { name: "Time", of: (point) => moment(point.time) },
        { name: "Row", number: true, of: (point) => number(point.row) },
        { name: "Updates", number: true, of: (point) => number(point.updates) },
        ...names.map((name) => ({ name: NAMES[name] ?? name, number: true, of: (point) => number(point.figures[name], 6, 0) })),
      ],
      points,
      { tight: true },
    ),
  );
}

function exploration({ exploration: rule, explored }) {
  const choices = explored.reduce((sum, line) => sum + line.choices, 0);
  const others = explored.reduce((sum, line) => sum + line.explored, 0);
  return [
    el("p", {}, "Rule: ", el("b", {}, rule), "."),
    choices === 0
      ? empty("No choice was journaled yet.")
      : [
          el("p", { class: "headline", data: { explored: others, choices } }, `${percent(others / choices)} of ${count(choices, "choice")} explored`),
          table(
            "Explored choices by session",
            [
              { name: "Session", of: (line) => dated(line.session) },
              { name: "Explored", number: true, of: (line) => `${number(line.explored)} of ${number(line.choices)}` },
              { name: "Share", number: true, of: (line) => percent(line.explored / line.choices) },
              { name: "Chance", number: true, of: (line) => percent(line.chance) },
            ],
            explored,
            { stacked: false, row: (line) => ({ data: { session: line.session } }) },
          ),
        ],
  ];
}

// What keeps a new entry back for a while, and at which prices a position is left.
function bounds({ gates, positions }) {
  const waits = gates.filter((gate) => gate.state === "denies" && gate.ends > 0);
  return [
    waits.length
      ? el("ul", { class: "plain-list" }, waits.map((gate) => el("li", { data: { cooldown: gate.name } }, el("b", {}, words(gate.name)), ` ${gate.reason}, `, el("span", { data: { ends: gate.ends } }))))
      : empty("No cooldown or pause runs."),
    positions.length ? positions.map(holding) : empty("Nothing is held: no stop-loss, no take-profit."),
  ];
}

function chosen({ decision, weights }, address) {
  if (!decision) return empty("No choice was journaled yet.");
  return [el("p", {}, el("a", { class: "action", data: { key: "newest" }, href: address("decision", [decision]) }, `Open decision ${number(decision)}`)), headTables(weights)];
}

const UP = ["champion", "canary_100", "canary_50", "canary_25", "canary_10", "shadow"];

function standing({ step, running, live }) {
  const kind = ["refused", "rolled_back"].includes(step) ? "bad" : UP.includes(step) ? "good" : "plain";
  return el("span", { class: "badges" }, badge(words(step) || "not judged", kind), running && answering(live));
}

function rungs({ rungs: all, held }) {
  const reasons = new Map(held);
  if (!all.length) return empty("No version with a card yet.");
  return [
    table(
      "Versions on the ladder",
      [
        { name: "Version", of: (rung) => el("code", {}, rung.version) },
        { name: "Step", of: (rung) => [standing(rung), reasons.has(rung.version) && ` held back: ${reasons.get(rung.version)}`] },
        { name: "Compared with", of: (rung) => (rung.parent ? el("code", {}, rung.parent) : "–") },
        { name: "Why", of: (rung) => (rung.steps.length ? `${words(rung.steps[0].reason)}: ${rung.steps[0].detail}` : "–") },
        { name: "Sessions", number: true, of: (rung) => (rung.steps.length ? number(rung.steps[0].sessions) : "–") },
        { name: "Size", number: true, of: (rung) => (rung.steps.length ? percent(rung.steps[0].share, 0) : "–") },
        { name: "Card", of: (rung) => rung.problem || (rung.card ? more(`card ${rung.version}`, lead(rung.card), cardFigures(rung.card)) : "none") },
        { name: "Steps", of: (rung) => (rung.steps.length ? more(`steps ${rung.version}`, count(rung.steps.length, "entry", "entries"), stepList(rung.steps)) : "none") },
      ],
      all,
      { row: (rung) => ({ data: { version: rung.version, step: rung.step } }) },
    ),
  ];
}

const interval = ({ estimate, low, high }) => `${signed(estimate, 5)} (${signed(low, 5)} to ${signed(high, 5)})`;

function lead(found) {
  const first = found.leads.find(({ estimator }) => estimator === "dr") ?? found.leads[0];
  return first ? `lead by ${first.estimator} ${interval(first)}` : "cannot be said";
}

function cardFigures(found) {
  return [
    found.cannot_be_said && el("p", {}, `No lead: ${found.cannot_be_said}.`),
    figures(
      [
        ...found.leads.map((line) => [`Lead by ${line.estimator}`, interval(line), "95 % interval"]),
        ["Decisions", number(found.decisions), `of ${count(found.sessions, "session")}`],
        ["Exploration", percent(found.exploration)],
        ["Overlap", number(found.overlap, 2)],
        ["Effective episodes", number(found.effective)],
        ["A session", percent(found.session_mean, 3), `deviation ${percent(found.session_deviation, 3)}`],
        ["Stream", `${number(found.first_row)} to ${number(found.last_row)}`, found.stream || "none"],
        ["Trainer", el("code", {}, found.trainer)],
      ],
      "figures small",
    ),
  ];
}

function stepList(steps) {
  return el(
    "ol",
    { class: "log" },
    steps.map((step) =>
      el(
        "li",
        { data: { to: step.to_step } },
        el("time", {}, moment(step.time)),
        el("strong", {}, step.from_step === step.to_step ? words(step.to_step) : `${words(step.from_step)} → ${words(step.to_step)}`),
        el("span", {}, `${words(step.reason)}: ${step.detail}`),
        more(`figures ${step.version} ${step.time} ${step.reason}`, count(Object.keys(step.figures).length, "figure"), figures(Object.entries(step.figures).filter(([name]) => !name.endsWith("_ns")).map(([name, value]) => [words(name), number(value, 6, 0)]), "figures small")),
      ),
    ),
  );
}

// Each version below its parent. A parent without a card, or one that is gone, is a root.
function tree(all) {
  const known = new Map(all.map((rung) => [rung.version, rung]));
  const children = Map.groupBy(all.filter((rung) => rung.parent && rung.parent !== rung.version), (rung) => rung.parent);
  const roots = [...children.keys(), ...known.keys()].filter((name) => !known.get(name)?.parent);
  const drawn = new Set();
  const branch = (name) => {
    if (drawn.has(name)) return null;
    drawn.add(name);
    const rung = known.get(name);
    const below = (children.get(name) ?? []).map((child) => branch(child.version)).filter(Boolean);
    return el("li", { data: { version: name } }, el("code", {}, name), " ", rung && standing(rung), below.length > 0 && el("ul", { class: "tree" }, below));
  };
  const lines = [...new Set([...roots, ...known.keys()])].map(branch).filter(Boolean);
  return lines.length ? el("ul", { class: "tree", "aria-label": "Versions below those that they were trained from" }, lines) : empty("No version with a card yet.");
}
