// The health of daemon, journal and this dashboard, in words with units.

import { card, el, empty, figures, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, moment, number } from "./format.js";
import { opening, trouble } from "./parts.js";

export const title = "Health";

export function mount(main, { desk }) {
  const problems = trouble();
  const daemon = card("Daemon", { id: "daemon" });
  const journal = card("Journal", { id: "journal" });
  const board = card("This dashboard", { id: "dashboard" });
  const kinds = card("Events of the newest session, by kind", { id: "kinds" });
  const starts = card("Starts", { id: "starts" });
  main.append(
    ...opening("Health"),
    problems.box,
    el(
      "div",
      { class: "columns even" },
      el("div", { class: "column" }, daemon.section, journal.section, board.section),
      el("div", { class: "column" }, kinds.section, starts.section),
    ),
  );
  const page = resource((signal) => ask("health", { desk }, signal), show, problems.fail, 3000);
  page.refresh();

  function show(told) {
    problems.fine();
    const same = told.code === told.own_code;
    daemon.show(told, () =>
      figures(
        [
          ["Process", told.running ? "runs" : "does not run", told.process],
          ["Deciding code", el("code", {}, told.code || "unknown"), "digest of the last run's"],
          ["Refused bars", number(told.rejected_bars), "since the journal began"],
        ],
        "figures small",
      ),
    );
    journal.show(told, () =>
      figures(
        [
          ["Events", number(told.events), count(told.snapshots, "snapshot")],
          ["File", `${number(told.journal_mib, 1)} MiB`],
          ["Write-ahead log", `${number(told.wal_mib, 1)} MiB`, "grows while a reader holds on"],
          ["First event", moment(told.first_event)],
          ["Newest event", moment(told.last_event)],
        ],
        "figures small",
      ),
    );
    board.show(told, () =>
      figures(
        [
          ["Its code", el("code", {}, told.own_code || "unknown"), same ? "the same as the daemon's: every state is exact" : "not the daemon's: states cannot be followed"],
          ["Last look at the journal", `${number(told.follow_ms, 1)} ms`],
          ["Pages being told", number(told.clients)],
        ],
        "figures small",
      ),
    );
    kinds.show(told.kinds, (all) =>
      all.length
        ? table("Events by kind", [{ name: "Kind", of: ([name]) => name }, { name: "Events", number: true, of: ([, many]) => number(many) }], all, { stacked: false })
        : empty("No session yet."),
    );
    starts.show(told.starts, (all) =>
      all.length ? el("ol", { class: "plain-list" }, all.map((time) => el("li", {}, moment(time)))) : empty("None with a time: a replay starts before its first bar."),
    );
  }
  return { update: () => page.refresh(), close: () => page.close() };
}
