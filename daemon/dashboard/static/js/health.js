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

  function show(data) {
    problems.fine();
    const same = data.code === data.own_code;
    daemon.show(data, () =>
      figures(
        [
          ["Process", data.running ? "runs" : "does not run", data.process],
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
          ["Last look at the journal", `${number(data.follow_ms, 1)} ms`],
          ["Open pages", number(data.clients)],
        ],
        "figures small",
      ),
    );
    kinds.show(data.kinds, (all) =>
      all.length
        ? table("Events by kind", [{ name: "Kind", of: ([name]) => name }, { name: "Events", number: true, of: ([, many]) => number(many) }], all, { stacked: false })
        : empty("No session yet."),
    );
    starts.show(data.starts, (all) =>
      all.length ? el("ol", { class: "plain-list" }, all.map((time) => el("li", {}, moment(time)))) : empty("None with a time: a replay starts before its first bar."),
    );
  }
  return { update: () => page.refresh(), close: () => page.close() };
}
