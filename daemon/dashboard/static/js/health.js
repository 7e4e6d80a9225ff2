// The health of daemon, journal and this dashboard, in words with units.

import { badge, card, columns, el, empty, figures, more, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, moment, number, span, words } from "./format.js";
import { opening, raised, trouble } from "./parts.js";

export const title = "Health";

export function mount(main, { desk, address }) {
  const problems = trouble();
  const state = card("All well?", { id: "state", wide: true });
  const daemon = card("Daemon", { id: "daemon" });
  const journal = card("Journal", { id: "journal" });
  const board = card("This dashboard", { id: "dashboard" });
  const kinds = card("Events of the newest session, by kind", { id: "kinds" });
  const timings = card("How fast", { id: "timings" });
  const starts = card("Starts", { id: "starts" });
  const cards = columns([daemon, kinds, timings, journal, board, starts].map((one) => one.section));
  main.append(
    ...opening("Health"),
    problems.box,
    state.section,
    cards.box,
  );
  const page = resource((signal) => ask("health", { desk }, signal), show, problems.fail, 3000);
  page.refresh();

  function show(data) {
    problems.fine();
    const same = data.code === data.own_code;
    state.show([data.troubles, data.running, data.alarms, data.raised], () => [
      data.troubles.length
        ? [
            el("p", { class: "headline" }, badge("Look at", "bad"), ` ${count(data.troubles.length, "thing")}.`),
            el("ul", { class: "plain-list" }, data.troubles.map(trouble_line)),
          ]
        : headline(data, address),
      data.raised.length > 0 && more("raised", `Alarms: ${count(data.raised.length, "kind")}`, raised(data.raised, "")),
    ]);
    daemon.show(data, () =>
      figures(
        [
          ["Process", data.running ? "running" : "stopped", data.process],
          ["Deciding code", el("code", {}, data.code || "unknown"), "digest of the last run's"],
          ["Refused bars", number(data.rejected_bars), "since the journal began"],
        ],
        "figures small",
      ),
    );
    journal.show(data, () =>
      figures(
        [
          ["Events", number(data.events), count(data.snapshots, "snapshot")],
          ["File", `${number(data.journal_mib, 1)} MiB`],
          ["Write-ahead log", `${number(data.wal_mib, 1)} MiB`, "grows while a reader holds on"],
          ["First event", moment(data.first_event)],
          ["Newest event", moment(data.last_event)],
        ],
        "figures small",
      ),
    );
    board.show(data, () =>
      figures(
        [
          ["Its code", el("code", {}, data.own_code || "unknown"), same ? "the same as the daemon's: every state is exact" : "not the daemon's: states cannot be followed"],
          ["Reading the journal took", `${number(data.follow_ms, 1)} ms`, "the newest time; it is read about once a second"],
          ["Open pages", number(data.clients)],
        ],
        "figures small",
      ),
    );
    timings.show(data.timings, (all) => (all.length ? speeds(all) : empty("Nothing to measure: recorded data has the tape's times, and a live desk's come with its first bars and orders.")));
    kinds.show(data.kinds, (all) =>
      all.length
        ? table("Events by kind", [{ name: "Kind", of: ([name]) => el("span", { title: name }, plainly(name)) }, { name: "Events", number: true, of: ([, many]) => number(many) }], all, { stacked: false })
        : empty("No session yet."),
    );
    starts.show(data.starts, (all) =>
      all.length ? el("ol", { class: "plain-list" }, all.map((time) => el("li", {}, moment(time)))) : empty("None with a time: a replay starts before its first bar."),
    );
  }
  return { update: () => page.refresh(), close };

  function close() {
    page.close();
    cards.close();
  }
}

// Nothing keeps the desk from its work: what of it a person should know all the same.
function headline({ running, alarms }, address) {
  if (!alarms) return el("p", { class: "headline" }, badge("Well", "good"), running ? " The daemon runs, and nothing keeps it from trading." : " The run ended, and nothing is wrong with it.");
  const [when, now] = running ? ["in the newest session", "The daemon runs, and nothing keeps it from trading now."] : ["during the run", "It ended, and nothing else is wrong with it."];
  return el("p", { class: "headline" }, badge(count(alarms, "alarm"), "warn"), ` ${when}: see `, el("a", { href: address("risk") }, "Risk"), `. ${now}`);
}

// One thing to look at: what, since when, what to do.
const trouble_line = (one) =>
  el("li", { data: { trouble: one.what } }, el("strong", {}, one.what), one.since > 0 && ` since ${moment(one.since)}`, ". ", el("span", { class: "muted" }, `What to do: ${one.cure}.`));

// "BarClosed" -> "bar closed".
const plainly = (name) => name.replace(/([a-z])(?=[A-Z])/g, "$1 ").toLowerCase();

// Durations: from milliseconds to minutes.
const short = (seconds) => (seconds < 1 ? `${number(1e3 * seconds, seconds < 0.01 ? 1 : 0)} ms` : seconds < 120 ? `${number(seconds, 2)} s` : span(seconds));

function speeds(all) {
  return [
    table(
      "How fast",
      [
        { name: "What", of: (line) => words(line.name) },
        { name: "Median", number: true, of: (line) => short(line.median_s) },
        { name: "99 %", number: true, of: (line) => short(line.p99_s) },
        { name: "Longest", number: true, of: (line) => short(line.worst_s) },
        { name: "Of", number: true, of: (line) => number(line.count) },
      ],
      all,
      { row: (line) => ({ data: { timing: line.name } }) },
    ),
    el("ul", { class: "plain-list note" }, all.map((line) => el("li", {}, `${line.name}: ${line.what}`))),
  ];
}
