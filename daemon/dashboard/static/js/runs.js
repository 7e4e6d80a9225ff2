// The library of runs: dry runs and trainings as they lie on the disk, the progress of those that run, and two to five of
// them over each other. Nothing is started here: `rltrader runs start` does that in a terminal.

import { PATTERNS, returnsChart } from "./charts.js";
import { badge, card, chooser, el, empty, pair, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, dated, day, minute, number, percent, zone } from "./format.js";
import { change, opening, trouble } from "./parts.js";

export const title = "Runs";
const EVERY_MS = 5000;
const MOST = 5;
const SHOWN = 4; // parameters of a line
const FEWEST = 2;
const LETTERS = "ABCDE";
const SORTS = [["when", "newest first"], ["name", "name"], ["return", "return"], ["sharpe", "Sharpe"], ["drawdown", "drawdown"]];
const TONES = { running: "good", unreadable: "bad", stopped: "warn" };
const KEYS = {
  when: (run) => -run.began_s,
  return: (run) => -(run.figures?.share ?? -Infinity),
  sharpe: (run) => -(run.figures?.sharpe ?? -Infinity),
  drawdown: (run) => run.figures?.max_drawdown ?? Infinity,
};

export function mount(main, { view, keep }) {
  const problems = trouble();
  const list = card("Dry runs and trainings", { id: "runs", wide: true, note: "Read from what each run left on the disk. Tick two to five to see them over each other." });
  const over = card("Over each other", { id: "compared", wide: true });
  const filters = el("div", { class: "choosers" });
  const remarks = el("div", { id: "remarks" });
  const [equity, falls] = [el("div", { class: "chart", role: "img", "aria-label": "Nothing to draw." }), el("div", { class: "chart", role: "img", "aria-label": "Nothing to draw." })];
  const names = el("ul", { class: "lines" });
  const tables = el("div");
  const drawing = el("div", { hidden: true }, names, el("h3", {}, "Return since the begin"), equity, el("h3", {}, "Drawdown"), falls, tables);
  const hint = el("p", { class: "empty" });
  over.body.append(hint, drawing);
  list.head.append(filters);
  main.append(...opening("Runs", ["Every dry run and training below the folders of runs. Start one in a terminal: ", el("code", {}, "rltrader runs start")]), problems.box, remarks, over.section, list.section);
  const charts = [returnsChart(equity, "Return since the begin"), returnsChart(falls, "Drawdown")];
  let chosen = view.getAll("run").slice(0, MOST);
  let strategy = view.get("strategy") ?? "";
  let sort = SORTS.some(([name]) => name === view.get("sort")) ? view.get("sort") : "when";
  let all = { runs: [], remarks: [] };
  let asked = "";
  let closed = false;
  const page = resource((signal) => ask("runs", {}, signal), found, problems.fail, EVERY_MS);
  const timer = setInterval(() => page.refresh(), EVERY_MS);
  const comparison = resource((signal) => compared(chosen, signal), drawn, refused, 0);
  page.refresh();

  function found(data) {
    problems.fine();
    all = data;
    show();
  }

  function wish() {
    const shown = new URLSearchParams(chosen.map((name) => ["run", name]));
    if (strategy) shown.set("strategy", strategy);
    if (sort !== "when") shown.set("sort", sort);
    keep(shown);
    show();
  }

  function pick(name, wanted) {
    chosen = wanted ? [...chosen, name] : chosen.filter((other) => other !== name);
    wish();
  }

  function show() {
    const known = new Set(all.runs.map((run) => run.id));
    const there = chosen.filter((name) => known.has(name));
    if (all.runs.length && there.length !== chosen.length) chosen = there; // one was deleted
    filter();
    remarks.replaceChildren(...all.remarks.map((text) => el("p", { class: "note" }, text)));
    const runs = all.runs.filter((run) => !strategy || run.strategy === strategy);
    const key = KEYS[sort];
    runs.sort((a, b) => (key ? key(a) - key(b) || 0 : a.id.localeCompare(b.id)));
    list.show([runs, chosen], () => (runs.length ? lines(runs, chosen, pick) : empty(["No run in the folders of runs: ./runs and paths.state_dir where this dashboard was started, or each --runs-dir. Start one in a terminal: ", el("code", {}, "rltrader runs start dry-run")])));
    const states = all.runs.filter((run) => chosen.includes(run.id)).map((run) => [run.id, run.ended_s]);
    if (chosen.length < FEWEST) {
      asked = "";
      drawing.hidden = true;
      hint.hidden = false;
      hint.textContent = chosen.length ? `${chosen[0]} is ticked: tick one more.` : "Tick two to five runs in the list below.";
    } else if (JSON.stringify([chosen, states]) !== asked) {
      asked = JSON.stringify([chosen, states]);
      comparison.refresh(true);
    }
  }

  function filter() {
    const strategies = [...new Set(all.runs.map((run) => run.strategy).filter(Boolean))].sort();
    const key = JSON.stringify([strategies, strategy, sort]);
    if (filters.dataset.key === key) return;
    filters.dataset.key = key;
    filters.replaceChildren(
      chooser("Strategy", [["", "all"], ...strategies.map((name) => [name, name])], strategy, (name) => {
        strategy = name;
        wish();
      }),
      chooser("Sort", SORTS, sort, (name) => {
        sort = name;
        wish();
      }),
    );
  }

  function drawn(data) {
    if (chosen.length < FEWEST) return;
    hint.hidden = true;
    drawing.hidden = false;
    const named = data.runs.map((run, place) => `${LETTERS[place]} ${run.id}`);
    names.replaceChildren(...named.map((name, place) => el("li", { data: { line: name } }, el("i", { class: `sample ${PATTERNS[place]}`, "aria-hidden": "true" }), name)));
    const courses = data.courses.map((course, place) => [LETTERS[place], course]).filter(([, course]) => course.times.length);
    sized(() => {
      if (closed) return;
      charts[0].show(courses.map(([name, course]) => ({ name, times: course.times, shares: course.shares })));
      charts[1].show(courses.map(([name, course]) => ({ name, times: course.times, shares: course.falls.map((fall) => -fall) })));
    });
    const columns = (head) => [{ name: head, of: (row) => row[0] }, ...data.runs.map((_, place) => ({ name: LETTERS[place], of: (row) => row[place + 1] }))];
    tables.replaceChildren(
      ...data.remarks.map((text) => el("p", { class: "note" }, text)),
      el("h3", {}, "Figures"),
      table("Figures of the runs", columns("Figure"), data.figures, { tight: true }),
      el("h3", {}, "Differences"),
      data.differences.length ? table("Settings in which the runs differ", columns("Setting"), data.differences, { tight: true }) : el("p", { class: "note" }, "No setting differs."),
    );
  }

  function refused(problem) {
    hint.hidden = false;
    drawing.hidden = true;
    hint.textContent = problem.message;
  }

  return {
    close() {
      clearInterval(timer);
      page.close();
      comparison.close();
      closed = true;
      charts.forEach((chart) => chart.close());
    },
  };
}

// A chart that was hidden knows its width two frames later.
const sized = (draw) => requestAnimationFrame(() => requestAnimationFrame(draw));

// One name may be asked for several times, which `target` cannot write.
function compared(names, signal) {
  const query = new URLSearchParams(names.map((name) => ["id", name]));
  return ask(`runs/compare?${query}`, {}, signal);
}

function lines(runs, chosen, pick) {
  const figure = (run, value) => (run.figures ? value(run.figures) : "–");
  return table(
    "Dry runs and trainings",
    [
      { name: "Run", of: (run) => pair(run.id, [run.kind, ...run.tags.map((tag) => `#${tag}`)].join(" ")) },
      { name: "Compare", of: (run) => box(run, chosen, pick) },
      { name: "State", of: state },
      { name: "Strategy", of: (run) => pair(run.strategy || "–", run.version) },
      { name: "Data", of: (run) => pair(run.data || "–", run.figures ? `${dated(run.figures.first)} to ${dated(run.figures.last)}${run.synthetic ? ", made up" : ""}` : "") },
      { name: "Return", number: true, of: (run) => figure(run, (found) => change(found.share)) },
      { name: "Sharpe", number: true, of: (run) => figure(run, (found) => number(found.sharpe, 2)) },
      { name: "Drawdown", number: true, of: (run) => figure(run, (found) => percent(-found.max_drawdown)) },
      { name: "Trades", number: true, minor: true, of: (run) => figure(run, (found) => number(found.trades)) },
      { name: "Began", of: (run) => (run.began_s ? pair(day(run.began_s), `${minute(run.began_s)} ${zone(run.began_s)}${run.code && `, code ${run.code}`}`) : "–") },
      { name: "Parameters", minor: true, of: parameters },
    ],
    runs,
    { tight: true, row: (run) => ({ data: { run: run.id, state: run.state } }) },
  );
}

function box(run, chosen, pick) {
  const on = chosen.includes(run.id);
  const off = run.state === "unreadable" || (!on && chosen.length >= MOST);
  const props = { type: "checkbox", "aria-label": `Compare ${run.id}`, checked: on, disabled: off, data: { key: `pick ${run.id}` } };
  return el("label", { class: "pick" }, el("input", { ...props, on: { change: (event) => pick(run.id, event.target.checked) } }));
}

function state(run) {
  const text = badge(run.state, TONES[run.state] ?? "plain");
  if (run.problem) return pair(text, run.problem);
  const progress = run.progress;
  if (run.state !== "running" || !progress) return text;
  const share = progress.total > 0 ? Math.min(progress.done / progress.total, 1) : null;
  const bar = el("progress", { max: 1, value: share, "aria-label": `Progress of ${run.id}` });
  const words = share === null ? progress.stage : `${progress.stage}: ${number(progress.done)} of ${count(progress.total, progress.unit || "piece", progress.unit || "pieces")}`;
  return pair(text, [bar, ` ${share === null ? "" : percent(share, 0)} `, words].flat().reduce((whole, part) => (whole.append(part), whole), el("span", { class: "progress" })));
}

function parameters(run) {
  const shown = run.brief.slice(0, SHOWN).join(", ");
  return el("span", { class: "long" }, run.brief.length > SHOWN ? `${shown} and ${run.brief.length - SHOWN} more` : shown || "defaults");
}
