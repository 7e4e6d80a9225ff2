// What the desk earned over time: a range, its figures, the curve next to buy and hold, a calendar, drawdowns.

import { card, chooser, el, empty, figures, more, table } from "./dom.js";
import { PATTERNS, returnsChart } from "./charts.js";
import { ask, resource } from "./feed.js";
import { clock, count, dated, number, percent, signed, span, usd } from "./format.js";
import { change, gain, opening, trouble } from "./parts.js";

export const title = "Performance";
const RANGES = [["1D", "1 day"], ["1W", "1 week"], ["1M", "1 month"], ["3M", "3 months"], ["YTD", "this year"], ["ALL", "all"]];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const STEPS = 4;
const FEW = 60; // sessions below which a ratio is mostly chance
const FEWEST = 20; // sessions below which no ratio is shown
const LISTED = 262; // days of the list

export function mount(main, { desk }) {
  const problems = trouble();
  const sums = card("Figures", { id: "figures" });
  const curve = card("Return, next to buy and hold", { id: "course", wide: true });
  const months = card("Months", { id: "months", wide: true });
  const days = card("Days", { id: "days", wide: true, note: "▲ gain, ▼ loss; the stronger the colour, the larger the return." });
  const falls = card("Drawdowns", { id: "falls", wide: true, note: "From the highest return so far, at the ends of days; lengths in sessions." });
  const canvas = el("div", { class: "chart", role: "img", "aria-label": "No day yet." });
  const names = el("ul", { class: "lines" });
  const compare = el("div", { class: "choosers" });
  curve.head.append(compare);
  curve.body.append(names, canvas);
  let range = "ALL";
  let benchmark = "";
  let known = "";
  let seen = ""; // which newest day was brought into view
  const buttons = RANGES.map(([name, words]) =>
    el("button", { type: "button", "aria-pressed": String(name === range), title: words, data: { range: name }, on: { click: () => choose(name) } }, name === "ALL" ? "All" : name),
  );
  main.append(
    ...opening("Performance", "What the desk earned, after fees and without transfers. Ranges end with the newest recorded day."),
    problems.box,
    el("div", { class: "choosers ranges", role: "group", "aria-label": "Range" }, buttons),
    sums.section,
    curve.section,
    months.section,
    days.section,
    falls.section,
  );
  const chart = returnsChart(canvas);
  const answer = resource((signal) => ask("performance", { desk, range, benchmark }, signal), show, problems.fail, 5000);

  function choose(name) {
    range = name;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.range === name));
    answer.refresh(true);
  }

  function show(data) {
    problems.fine();
    const found = data.figures;
    sums.section.dataset.range = data.range;
    sums.show(found, () => (found.sessions ? summed(found) : empty("No session with a recorded equity yet.")));
    chart.show(found.lines);
    names.replaceChildren(...found.lines.map(line));
    comparison(data.symbols);
    months.show(found.months, () => calendar(found));
    days.show([found.days, found.sessions], () => heat(found.days, found.weeks, found.sessions));
    newestInView([months.body, days.body], JSON.stringify([range, found.days.at(-1)?.name]));
    falls.show([found.drawdowns, data.falls], () => fallen(found.drawdowns, data.falls));
  }

  // Where a calendar is wider than the page its newest part is shown, once for each new day.
  function newestInView(boxes, key) {
    if (key === seen) return;
    seen = key;
    for (const box of boxes.flatMap((body) => [...body.querySelectorAll(".scroll")])) {
      const cells = [...box.querySelectorAll("tbody tr:first-child td[data-month], td[data-day]")];
      const newest = cells.sort((a, b) => a.offsetLeft - b.offsetLeft).at(-1);
      if (newest) box.scrollLeft = Math.max(0, newest.offsetLeft + newest.offsetWidth - box.clientWidth + 8);
    }
  }

  function comparison(symbols) {
    const key = JSON.stringify([symbols, benchmark]);
    if (compare.dataset.key === key || symbols.length < 2) return;
    compare.dataset.key = key;
    compare.replaceChildren(
      chooser("Compare with", [["", "buy and hold of all"], ...symbols.map((name) => [name, name])], benchmark, (name) => {
        benchmark = name;
        answer.refresh(true);
      }),
    );
  }

  answer.refresh();
  return {
    update(now) {
      const key = `${now.realized_usd}/${now.session}/${now.session_ended}/${now.positions.length}`;
      if (key !== known) answer.refresh();
      known = key;
    },
    close() {
      answer.close();
      chart.close();
    },
  };
}

// A line of the chart by name, with a sample of its pattern.
function line(shown, place) {
  return el("li", { data: { line: shown.name } }, el("i", { class: `sample ${PATTERNS[place]}`, "aria-hidden": "true" }), `${shown.name} `, change(shown.shares.at(-1)));
}

function counted({ sessions, warm_up: before }) {
  return before ? `${number(sessions)} of ${count(sessions + before, "session")} (from the first trade on)` : count(sessions, "session");
}

function summed(found) {
  const { trades } = found;
  const few = found.sessions < FEW ? "few sessions: mostly chance" : "";
  const told = found.sessions >= FEWEST;
  const within = found.marked_drawdown !== null && found.marked_drawdown - found.max_drawdown > 5e-5 ? `; ${percent(-found.marked_drawdown)} within days` : "";
  return [
    el("p", { class: "note" }, `${dated(found.first)} to ${dated(found.last)}, ${counted(found)}; the equity as of ${clock(found.lines[0].times.at(-1))}.`),
    figures([
      ["P&L", gain(found.pnl_usd), `${usd(found.start_usd)} → ${usd(found.end_usd)}`],
      ["Return", change(found.share), found.annual === null ? "" : el("span", {}, change(found.annual), " a year")],
      ["Sharpe", told ? number(found.sharpe, 2) : "–", !told ? `fewer than ${FEWEST} sessions say nothing` : found.sharpe_error === null ? "" : `± ${number(found.sharpe_error, 2)}${few ? `, ${few}` : ""}`],
      ["Sortino", told ? number(found.sortino, 2) : "–"],
      ["Volatility", percent(found.volatility), "a year"],
      [
        "Largest drawdown",
        percent(-found.max_drawdown),
        `of the highest equity so far, at day ends${within}`,
      ],
      ["Days won", percent(found.days_won)],
      found.best && ["Best day", change(found.best.share), dated(found.best.name)],
      found.worst && ["Worst day", change(found.worst.share), dated(found.worst.name)],
      ["Closed trades", number(trades.trades), trades.win_rate === null ? "" : `${percent(trades.win_rate)} won`],
      trades.trades > 0 && ["Profit factor", number(trades.profit_factor, 2), trades.profit_factor === null ? "no losses" : `gains / losses of ${count(trades.trades, "closed trade")}`],
      trades.trades > 0 && ["Expectancy", gain(trades.expectancy_usd), `held ${span(trades.held_s)} on average`],
      trades.open > 0 && ["Open trades", number(trades.open), trades.open_usd === null ? "" : el("span", {}, gain(trades.open_usd), " with what is unrealised")],
      ["Time in the market", percent(found.in_market), found.at_work === null ? "" : `${percent(found.at_work)} of the equity at work then`],
      found.transfers_usd !== 0 && ["Transfers", usd(found.transfers_usd, { sign: true }), "neither gain nor loss"],
    ]),
  ];
}

// gain1 to gain4, loss1 to loss4: how large a return is next to the largest.
function shade(share, largest) {
  if (Math.abs(share) < 5e-7 || largest <= 0) return "even";
  return `${share > 0 ? "up" : "down"}${Math.min(STEPS, 1 + Math.floor((STEPS - 0.001) * Math.abs(share) / largest))}`;
}
const dollars = (amount) => `${amount < 0 ? "−" : "+"}$${number(Math.abs(amount))}`;
const arrow = (share) => (share > 0 ? "▲" : share < 0 ? "▼" : "·");
const largest = (periods) => Math.max(0, ...periods.map((period) => Math.abs(period.share)));

function calendar(found) {
  if (!found.months.length) return empty("No month yet.");
  const most = largest(found.months);
  const known = new Map(found.months.map((month) => [month.name, month]));
  const traded = new Set(found.months.map((month) => Number(month.name.slice(5)) - 1));
  const columns = MONTHS.map((_, index) => index).filter((index) => traded.has(index));
  const cell = (period, kind) =>
    period
      ? el("td", { class: kind, data: { month: period.name, share: period.share } }, el("span", { "aria-hidden": "true" }, arrow(period.share)), ` ${signed(100 * period.share, 2)} %`, el("small", {}, dollars(period.pnl_usd)))
      : el("td", { class: "none" }, "");
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Returns by month" },
    el(
      "table",
      { class: "calendar" },
      el("caption", { class: "hidden" }, "Returns by month"),
      el("thead", {}, el("tr", {}, ["Year", "Total", ...columns.map((index) => MONTHS[index])].map((name) => el("th", { scope: "col" }, name)))),
      el(
        "tbody",
        {},
        [...found.years].reverse().map((year) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, year.name),
            cell(year, "total"),
            columns.map((index) => {
              const month = known.get(`${year.name}-${String(index + 1).padStart(2, "0")}`);
              return cell(month, month && shade(month.share, most));
            }),
          ),
        ),
      ),
    ),
  );
}

// Days since 1970, and the Monday of a day's week among them.
const ordinal = (name) => Date.parse(`${name}T00:00Z`) / 86_400_000;
const weekday = (at) => (((at + 3) % 7) + 7) % 7;

// Years of weeks as columns and weekdays as rows, the newest year first; a day's numbers stand below when pointed at.
function heat(days, weeks, all) {
  if (!days.length) return empty("No day yet.");
  const most = largest(days);
  const readout = el("p", { class: "readout" }, shown(days.at(-1)));
  const years = [...new Set(days.map((day) => day.name.slice(0, 4)))].reverse();
  return [
    years.map((year) => yearOf(year, days.filter((day) => day.name.startsWith(year)), most, readout)),
    readout,
    days.length < all && el("p", { class: "note" }, `The newest ${number(days.length)} of ${number(all)} days; months and years have all.`),
    more("days", `The newest ${count(Math.min(days.length, LISTED), "day")} as a list`, list(days, "Days", "Day")),
    more("weeks", `The newest ${count(Math.min(weeks.length, LISTED), "week")} as a list`, list(weeks, "Weeks", "Week of")),
  ];
}

function yearOf(year, days, most, readout) {
  const first = ordinal(days[0].name);
  const begin = first - weekday(first);
  const place = (day) => [weekday(ordinal(day.name)), Math.floor((ordinal(day.name) - begin) / 7)];
  const grid = new Map(days.map((day) => [place(day).join(), day]));
  const columns = place(days.at(-1))[1] + 1;
  const rows = WEEKDAYS.filter((_, row) => row < 5 || days.some((day) => place(day)[0] === row));
  const show = (day) => () => readout.replaceChildren(...shown(day));
  const headed = Array.from({ length: columns }, (_, week) => days.find((day) => place(day)[1] === week)?.name.slice(5, 7) ?? "");
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": `Returns by day, ${year}` },
    el(
      "table",
      { class: "days" },
      el("caption", {}, year),
      el("thead", {}, el("tr", {}, el("td", {}), headed.map((month, week) => (month && month !== headed[week - 1] ? el("th", { scope: "col" }, MONTHS[Number(month) - 1]) : el("td", {}))))),
      el(
        "tbody",
        {},
        rows.map((name, row) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, name),
            Array.from({ length: columns }, (_, week) => {
              const day = grid.get(`${row},${week}`);
              return day
                ? el("td", { class: shade(day.share, most), title: told(day), data: { day: day.name, share: day.share }, on: { pointerenter: show(day) } }, arrow(day.share))
                : el("td", {});
            }),
          ),
        ),
      ),
    ),
  );
}

const shown = (day) => [`${dated(day.name)}: `, gain(day.pnl_usd), ", ", change(day.share)];
const told = (day) => `${dated(day.name)}: ${usd(day.pnl_usd, { sign: true })}, ${signed(100 * day.share, 2)} %`;

function list(periods, caption, name) {
  return table(
    caption,
    [
      { name, of: (period) => dated(period.name) },
      { name: "P&L", number: true, of: (period) => gain(period.pnl_usd) },
      { name: "Return", number: true, of: (period) => change(period.share) },
    ],
    [...periods].reverse().slice(0, LISTED),
    { tight: true, row: (period) => ({ data: { period: period.name } }) },
  );
}

function fallen(falls, all) {
  if (!falls.length) return empty("The return never fell below its highest value at the end of a day.");
  return [
    table(
      "Drawdowns",
      [
        { name: "Start", of: (fall) => dated(fall.start) },
        { name: "Depth", number: true, of: (fall) => el("span", { class: "loss" }, `${signed(-100 * fall.depth, 2)} %`) },
        { name: "Trough", of: (fall) => dated(fall.trough) },
        { name: "End", of: (fall) => dated(fall.end) || el("span", { class: "badge warn" }, "not recovered") },
        { name: "Length", number: true, of: (fall) => number(fall.length) },
        { name: "To the trough", number: true, of: (fall) => number(fall.to_trough) },
      ],
      falls,
      { tight: true, row: (fall) => ({ data: { fall: fall.start } }) },
    ),
    all > falls.length && el("p", { class: "note" }, `The deepest ${number(falls.length)} of ${number(all)}.`),
  ];
}
