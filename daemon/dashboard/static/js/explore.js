// The large chart of a desk's price: any span of the journal in buckets that the server makes, so that a year of minutes
// is as quick as a day. The wheel and two fingers zoom, a drag moves, the arrow keys go from trade to trade.

import { axis, barOf, candleColours, chart, colour, fit, legend, marker, rising, themed } from "./charts.js";
import { chooser, el, empty, more, refill, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { clock, count, date, dated, day, instrument, minute, number, usd, words } from "./format.js";
import { gain } from "./parts.js";
import { rangeBar } from "./rangebar.js";

const PANE_PX = 90;
const CHART_PX = 380;
const PHONE_PX = 300;
const MARK_PX = 16; // of an arrow
const SETTLE_MS = 120;
const PANES_MOST = 6;
const FIRST_PANES = ["volume"];
const TONES = ["accent", "warn", "good", "bad", "muted"];
const OVERVIEW = 500; // points
const OWN_PRICE = "contract";

// `view`: what the address names; `keep(view)` notes what is seen there. `open(decision)`: an arrow was chosen.
export function explorer(box, { desk, view, keep, open, address, problems }) {
  const frame = el("div", { class: "chart", role: "img", "aria-label": "No bars yet." });
  const stage = el("div", { class: "stage", tabindex: 0, role: "group", "aria-label": "Price chart. Left and right go from trade to trade, plus and minus zoom, Home and End go to the first and the newest bar." }, frame);
  const said = el("p", { class: "note", role: "status", "aria-live": "polite", id: "trade" });
  const fills = el("div", { id: "fills" });
  const picks = el("div", { class: "picks" });
  const strip = rangeBar((from, to) => go({ from, to }, "seen"));
  const press = (name, label, act, keys) => el("button", { type: "button", "aria-label": label, title: label, "aria-keyshortcuts": keys, on: { click: act } }, name);
  const tools = el(
    "div",
    { class: "controls tools", role: "group", "aria-label": "Move the chart" },
    press("◀ Trade", "Previous trade", () => step("previous"), "ArrowLeft"),
    press("Trade ▶", "Next trade", () => step("next"), "ArrowRight"),
    press("−", "Zoom out", () => zoom(2), "-"),
    press("+", "Zoom in", () => zoom(0.5), "+"),
    press("All", "All sessions", () => go({ view: "all" }, "seen")),
    press("Newest", "Newest session", () => go({}, "seen"), "End"),
  );
  box.body.append(tools, stage, strip.box, said, picks, el("p", { class: "note" }, "Hollow candle: closed higher. Arrow up: entry, arrow down: exit, with their number where several stand at one bar; choose one to see its decision."), fills);
  const choosers = el("div", { class: "choosers" });
  box.head.append(choosers);

  let days = false;
  let data = null; // the answer that is drawn
  let symbol = view.get("symbol") ?? "";
  let panes = view.has("panes") ? view.get("panes").split(",").filter(Boolean) : FIRST_PANES;
  let wish = view.get("from") && view.get("to") ? { from: Number(view.get("from")), to: Number(view.get("to")) } : {};
  let how = "seen"; // how the next answer is put: to what the server says is seen, or to where the chart stands
  let chosen = null; // the wish of a button, a key or the strip, until its answer is shown
  let quiet = 0; // the range is being set by this code
  let span = 0; // bars seen when the data came
  let timer = 0;
  let held = [];
  let bars = [];
  let drawn = []; // series beside the candles
  let lines = [];
  let gathered = []; // the arrows
  let overviewed = "";

  const board = chart(frame, { daily: () => days, moves: true });
  const candles = board.addSeries(LightweightCharts.CandlestickSeries, candleColours());
  const labelled = () => [bars.at(-1)?.close, ...lines.map(([, line]) => line.options().price)].filter((price) => price !== undefined);
  candles.applyOptions({ priceFormat: axis((price) => number(price, 2), () => candles, labelled) });
  candles.priceScale().applyOptions({ scaleMargins: { top: 0.12, bottom: 0.1 } });
  const marks = LightweightCharts.createSeriesMarkers(candles, [], { autoScale: false });
  const read = legend(stage, board, told);
  board.subscribeClick((event) => {
    const decision = Number(event.hoveredInfo?.objectId ?? event.hoveredObjectId);
    if (decision > 0) open(decision);
  });
  board.timeScale().subscribeVisibleLogicalRangeChange(() => {
    if (quiet || chosen || !bars.length) return;
    strip.seen(...spanSeen());
    clearTimeout(timer);
    timer = setTimeout(settle, SETTLE_MS);
  });

  const asked = resource(
    async (signal) => {
      const [put, wanted] = [how, wish]; // both may be others when the answer comes
      return [await ask("bars", { desk, symbol, panes: panes.join(","), points: points(), ...wanted }, signal), put, wanted];
    },
    ([answer, put, wanted]) => {
      if (chosen === wanted) chosen = null;
      show(answer, put);
    },
    failed,
    500,
  );
  const overview = resource((signal) => ask("bars", { desk, symbol, view: "all", points: OVERVIEW, sessions: 1 }, signal), showAll, problems.fail, 30_000);

  function failed(problem) {
    chosen = null;
    if (wish.trade && problem.status === 404) {
      said.textContent = problem.message;
      wish = here();
      return;
    }
    if (problem.status === 404 && (view.has("symbol") || view.has("panes") || view.has("from"))) {
      for (const name of ["symbol", "panes", "from", "to"]) view.delete(name); // a link to what is no more
      [symbol, panes, wish] = ["", FIRST_PANES, {}];
      asked.refresh(true);
    }
    problems.fail(problem);
  }

  // Buckets that fit what is seen: two pixels each, and a whole session of minutes in any case.
  const points = () => Math.round(Math.min(650, Math.max(400, frame.clientWidth / 2)));

  // The first and last time seen; beyond the bars that are there by their mean distance.
  function spanSeen() {
    const range = board.timeScale().getVisibleLogicalRange();
    if (!range || !bars.length) return [0, 0];
    return [timeAt(range.from), timeAt(range.to)].map((time) => Math.min(data.last, Math.max(data.first, time)));
  }
  function timeAt(at) {
    const last = bars.length - 1;
    const mean = last ? (bars[last].time - bars[0].time) / last : 60;
    if (at <= 0) return bars[0].time + at * mean;
    if (at >= last) return bars[last].time + (at - last) * mean;
    const low = Math.floor(at);
    return bars[low].time + (at - low) * (bars[low + 1].time - bars[low].time);
  }
  function placeOf(time) {
    const low = bars.findLastIndex((bar) => bar.time <= time);
    if (low < 0) return (time - bars[0].time) / Math.max(1, timeAt(1) - bars[0].time);
    const next = bars[low + 1];
    return next ? low + (time - bars[low].time) / (next.time - bars[low].time) : low;
  }
  const here = () => {
    const [from, to] = spanSeen().map(Math.round);
    return { from, to };
  };

  // After a person moved the chart: ask for what is missing there, in shorter or longer buckets where they zoomed.
  function settle() {
    const range = board.timeScale().getVisibleLogicalRange();
    if (!range || !data) return;
    note(here());
    gather();
    const seen = range.to - range.from;
    const zoomed = Math.abs(seen - span) > 0.08 * span;
    const left = range.from < 0.3 * seen && bars[0].time > data.first;
    const right = range.to > bars.length - 1 - 0.3 * seen && bars.at(-1).time + Math.max(data.step, 60) <= data.last;
    if (!zoomed && !left && !right) return;
    wish = zoomed ? here() : { ...here(), step: data.step };
    how = "keep";
    asked.refresh(true);
  }

  function go(next, put) {
    clearTimeout(timer); // a choice ends what an earlier move would have asked for
    wish = "from" in next ? { from: Math.round(next.from), to: Math.round(Math.max(next.to, next.from + 1)) } : next;
    chosen = wish;
    how = put;
    if (put === "seen" && "from" in next) note({ from: Math.round(next.from), to: Math.round(next.to) });
    asked.refresh(true);
  }

  function zoom(by) {
    const range = board.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const [middle, half] = [(range.from + range.to) / 2, Math.max(5, ((range.to - range.from) / 2) * by)];
    board.timeScale().setVisibleLogicalRange({ from: middle - half, to: middle + half });
  }

  function shift(share) {
    const range = board.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const by = share * (range.to - range.from);
    board.timeScale().setVisibleLogicalRange({ from: range.from + by, to: range.to + by });
  }

  // To the trade after or before the one that is shown, else after or before the middle of what is seen.
  function step(way) {
    const [from, to] = spanSeen();
    const at = data?.trade ? data.trade.entered : way === "next" ? from : to;
    go({ trade: way, at: way === "next" ? Math.ceil(1000 * at) : Math.floor(1000 * at) }, "seen");
  }

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const act = {
      ArrowLeft: () => (event.shiftKey ? shift(-0.2) : step("previous")),
      ArrowRight: () => (event.shiftKey ? shift(0.2) : step("next")),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
      Home: () => data && go({ from: data.first, to: data.first + Math.max(60, spanSeen()[1] - spanSeen()[0]) }, "seen"),
      End: () => go({}, "seen"),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // The address holds the view: not where it follows the newest session.
  function note(seen) {
    const next = new URLSearchParams();
    if (seen) for (const [name, value] of Object.entries(seen)) next.set(name, value);
    if (symbol) next.set("symbol", symbol);
    if (panes.join() !== FIRST_PANES.join()) next.set("panes", panes.join(","));
    keep(next);
  }

  function show(answer, put) {
    problems.fine();
    const before = data && bars.length ? { range: board.timeScale().getVisibleLogicalRange(), step: data.step, times: spanSeen(), anchor: null } : null;
    if (before?.range) {
      const at = Math.min(bars.length - 1, Math.max(0, Math.round((before.range.from + before.range.to) / 2)));
      before.anchor = [bars[at].time, at];
    }
    const follows = !("from" in wish) && !wish.trade && !wish.view;
    data = answer;
    days = data.days;
    bars = rising(data.bars.map(([time, open, high, low, close, volume]) => ({ time, open, high, low, close, volume })));
    quiet += 1;
    candles.setData(bars);
    candles.applyOptions({ priceLineColor: colour(bars.at(-1)?.close < bars.at(-1)?.open ? "bad" : "good") });
    under();
    if (bars.length) {
      if (put === "keep" && before?.range) {
        const same = before.step === data.step && bars.findIndex((bar) => bar.time === before.anchor[0]);
        if (same !== false && same >= 0) {
          const by = same - before.anchor[1];
          board.timeScale().setVisibleLogicalRange({ from: before.range.from + by, to: before.range.to + by });
        } else board.timeScale().setVisibleLogicalRange({ from: placeOf(before.times[0]), to: placeOf(before.times[1]) });
      } else {
        const [from, to] = [placeOf(data.begin), placeOf(data.end)];
        const room = ((to - from + 1) * 13) / Math.max(board.timeScale().width(), 100);
        board.timeScale().setVisibleLogicalRange({ from: from - (data.begin > data.first ? 0 : room), to: to + room });
      }
      gather();
      const range = board.timeScale().getVisibleLogicalRange();
      span = range ? range.to - range.from : 0;
    } else fit(board, 0);
    requestAnimationFrame(() => requestAnimationFrame(() => (quiet -= 1))); // the library tells the change with the next frame, a new height with the one after
    if (!chosen) { // else the strip and the address hold a later choice, whose answer is to come
      if (put === "seen") note(follows ? null : { from: Math.round(data.begin), to: Math.round(data.end) });
      strip.seen(...(put === "seen" ? [data.begin, Math.min(data.last, data.end + Math.max(0, data.step - 60))] : spanSeen())); // to its last bucket's end
    }
    levels();
    read();
    describe();
    session();
    toolbar();
    refill(fills, fillList());
  }

  function showAll(answer) {
    strip.show(answer.bars, answer.last);
    if (data && !chosen) strip.seen(...spanSeen());
    const key = JSON.stringify([answer.sessions, answer.symbols, answer.symbol]);
    if (key === overviewed) return;
    overviewed = key;
    choosers.replaceChildren(
      ...[
        answer.symbols.length > 1 && chooser("Symbol", answer.symbols.map((name) => [name, name]), answer.symbol, (name) => {
          symbol = name;
          overview.refresh(true);
          go("from" in wish ? here() : {}, "seen");
        }),
        answer.sessions.length > 1 && chooser("Session", [["", "…"], ...[...answer.sessions].reverse().map((date) => [date, dated(date)])], "", (date) => date && go({ session: date }, "seen")),
      ].filter(Boolean),
    );
    session();
  }

  // Arrows that would lie on each other are one, with the number of the fills.
  function gather() {
    const range = board.timeScale().getVisibleLogicalRange();
    const pixels = range ? board.timeScale().width() / Math.max(1, range.to - range.from) : MARK_PX;
    const stride = Math.max(1, Math.ceil(MARK_PX / pixels));
    const groups = new Map();
    for (const mark of data.marks) {
      const place = bars.findLastIndex((bar) => bar.time <= mark.time);
      const key = `${mark.kind} ${Math.floor(place / stride)}`;
      groups.set(key, { ...mark, count: mark.count + (groups.get(key)?.count ?? 0) });
    }
    gathered = [...groups.values()].sort((a, b) => a.time - b.time);
    marks.setMarkers(gathered.map((mark) => marker(mark, bars)).filter(Boolean));
    frame.dataset.groups = gathered.length;
  }

  // The session that is seen, where it is one.
  function session() {
    const select = choosers.querySelector('select[aria-label="Session"]');
    if (!select || !data) return;
    const [begin, end] = [data.begin, data.end].map(date);
    select.value = begin === end && [...select.options].some((one) => one.value === begin) ? begin : "";
  }

  // Volume, contracts, features and indicators: each in a pane of its own, but for prices, which lie over the bars.
  function under() {
    for (const [, series] of drawn) board.removeSeries(series);
    drawn = [];
    while (board.panes().length > 1) board.removePane(board.panes().length - 1);
    let pane = 1;
    if (panes.includes("volume")) {
      const series = board.addSeries(LightweightCharts.HistogramSeries, { color: colour("bar"), priceFormat: { type: "volume" }, priceLineVisible: false, lastValueVisible: false }, pane++);
      series.setData(bars.map(({ time, volume }) => ({ time, value: volume })));
      drawn.push(["volume", series]);
    }
    if (data.contract) {
      const series = board.addSeries(LightweightCharts.LineSeries, { lineWidth: 2, color: colour("accent"), lineType: 1, priceLineVisible: false }, pane++);
      series.setData(gapped(data.contract));
      drawn.push([OWN_PRICE, series]);
    }
    let tone = 0;
    for (const line of data.panes) {
      const style = { lineWidth: 1, lineStyle: line.overlay ? tone % 4 : 0, color: colour(TONES[tone % TONES.length]), priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false };
      if (!line.overlay) style.priceFormat = axis((value) => number(value, Math.abs(value) < 1 ? 4 : 2), () => series, () => []);
      const series = board.addSeries(LightweightCharts.LineSeries, style, line.overlay ? 0 : pane++);
      series.setData(gapped(line));
      drawn.push([line.name, series]);
      tone += 1;
    }
    const base = matchMedia("(max-width: 700px)").matches ? PHONE_PX : CHART_PX;
    frame.style.height = `${base + (pane - 1) * PANE_PX}px`;
    board.panes().forEach((one, at) => one.setStretchFactor(at ? PANE_PX : base));
    frame.dataset.panes = [...drawn.map(([name]) => name)].join(",");
  }

  // The points of a line, and bars without one, where it breaks.
  function gapped({ times, values }) {
    const known = new Map(times.map((time, at) => [Math.floor(time), values[at]]));
    return bars.map(({ time }) => (known.has(time) ? { time, value: known.get(time) } : { time }));
  }

  // Entry, stop, target and the stop that rests at the broker: on the price of what is held.
  function levels() {
    for (const [series, line] of lines) if (series === candles || drawn.some(([, other]) => other === series)) series.removePriceLine(line);
    lines = [];
    if (!data) return;
    const put = (series, one) => {
      for (const [name, tone, word] of [["entry", "muted", "entry"], ["stop", "bad", "stop"], ["rests", "bad", "rests at the broker"], ["target", "good", "target"]]) {
        if (one[name] > 0) lines.push([series, series.createPriceLine({ price: one[name], color: colour(tone), lineWidth: 1, lineStyle: name === "rests" ? 1 : 2, title: word })]);
      }
    };
    const newest = data.end >= data.last - Math.max(data.step, 60);
    const share = held.find((one) => one.symbol === data.symbol);
    if (share && newest) put(candles, share);
    const own = drawn.find(([name]) => name === OWN_PRICE);
    const option = held.find((one) => one.symbol !== data.symbol);
    if (own && option && newest) put(own[1], option);
    frame.dataset.lines = lines.map(([, line]) => line.options().title).join(",");
  }

  function told(time) {
    const bar = time === null ? bars.findLast((one) => one.time <= data?.end) ?? bars.at(-1) : bars.find((one) => one.time === time);
    if (!bar) return "";
    const at = (line) => line.values[line.times.findIndex((one) => Math.floor(one) === bar.time)];
    const beside = [...data.panes, data.contract].filter(Boolean).map((line) => [line.name === OWN_PRICE ? "option" : line.name, at(line)]).filter(([, value]) => value !== undefined);
    const here = time === null ? [] : gathered.filter((mark) => barOf(mark, bars) === bar).map((mark) => (mark.count > 1 ? `${number(mark.count)} ${mark.kind === "entry" ? "entries" : "exits"}, the newest: ` : "") + instrument(mark.text));
    return [
      el("b", {}, days ? day(bar.time) : `${day(bar.time)}, ${minute(bar.time)}`),
      ...["open", "high", "low", "close"].map((name) => ` ${name[0].toUpperCase()} ${number(bar[name], 2)}`),
      panes.includes("volume") && ` volume ${number(bar.volume)}`,
      ...beside.map(([name, value]) => ` · ${plain(name)} ${number(value, Math.abs(value) < 1 ? 4 : 2)}`),
      here.length > 0 && ` · ${here.join("; ")}`,
    ];
  }

  function describe() {
    const seen = bars.filter((bar) => bar.time >= Math.floor(data.begin) && bar.time <= data.end);
    const when = !seen.length ? "" : day(data.begin) === day(data.end) ? day(data.begin) : `${day(data.begin)} to ${day(data.end)}`;
    box.heading.textContent = data.symbol ? [data.symbol, data.length, when || "no session yet"].filter(Boolean).join(", ") : "Price";
    Object.assign(frame.dataset, { bars: seen.length, loaded: bars.length, marks: data.fills_seen, step: data.step });
    frame.setAttribute(
      "aria-label",
      seen.length
        ? `Candles of ${data.symbol}, ${when}: ${number(seen.length)} bars${data.length ? ` of ${data.length}` : ""}, last close ${usd(seen.at(-1).close)}, ${count(data.fills_seen, "fill")}, listed below.`
        : "No bars yet.",
    );
    const one = data.trade;
    said.replaceChildren();
    if (one) {
      said.append("Trade: ", el("b", {}, instrument(one.what)), `, entered ${day(one.entered)}, ${minute(one.entered)}${one.left ? `, left ${day(one.left)}, ${minute(one.left)} (${words(one.why_left)})` : ", still held"}: `);
      const made = gain(one.pnl_usd);
      said.append(made, ". ");
      if (one.entry_decision) said.append(el("a", { class: "action", href: address("decision", [one.entry_decision]) }, "Its decision"));
    }
  }

  const plain = (name) => (name === OWN_PRICE ? "the option's own price" : words(name) === name ? name.replaceAll("_", " ") : name.replaceAll("_", " "));

  // What may be drawn beside the bars.
  function toolbar() {
    const names = ["volume", ...(data.contract || data.names.includes("position_side") ? [OWN_PRICE] : []), ...data.names];
    const key = JSON.stringify([names, panes]);
    if (picks.dataset.key === key) return;
    picks.dataset.key = key;
    const pick = (name) => {
      const input = el("input", { type: "checkbox", checked: panes.includes(name), disabled: !panes.includes(name) && panes.length >= PANES_MOST, data: { key: `pane ${name}` }, on: { change: () => choose(name, input.checked) } });
      return el("label", {}, input, plain(name));
    };
    refill(picks, more("panes", `Beside the price: ${panes.length ? panes.map(plain).join(", ") : "nothing"}`, el("fieldset", { class: "choice" }, el("legend", { class: "hidden" }, "What is drawn beside the price"), names.map(pick)), el("p", { class: "note" }, `At most ${PANES_MOST}. Names with small letters are what the policy saw, at the last decision of a bar; the others are computed from all bars.`)));
  }

  function choose(name, wanted) {
    panes = wanted ? [...panes, name] : panes.filter((other) => other !== name);
    const follows = !("from" in wish) && !wish.trade && !wish.view && !wish.session;
    go(follows ? {} : here(), follows ? "seen" : "keep");
    note(follows ? null : here());
  }

  function fillList() {
    const heading = `Fills seen: ${number(data.fills_seen)}`;
    if (!data.fills.length) return empty("No fill in what is seen.");
    const part = data.fills_seen > data.fills.length && el("p", { class: "note" }, `The newest ${number(data.fills.length)}: zoom in to see the others.`);
    const lines = [...data.fills].reverse();
    return more(
      "fills",
      heading,
      part,
      table(
        heading,
        [
          { name: "Time", of: (mark) => (day(mark.time) === day(data.end) ? clock(mark.time) : `${day(mark.time)}, ${minute(mark.time)}`) },
          { name: "Kind", of: (mark) => mark.kind },
          { name: "What", of: (mark) => instrument(mark.text) },
          {
            name: "Decision",
            of: (mark) => (mark.decision ? el("a", { href: address("decision", [mark.decision]) }, `Decision ${number(mark.decision)}`) : "by hand or by a rule"),
          },
        ],
        lines,
      ),
    );
  }

  const paint = () => {
    candles.applyOptions(candleColours());
    if (data) {
      under();
      levels();
    }
  };
  const unpaint = themed(board, paint);
  asked.refresh(true);
  overview.refresh(true);

  return {
    // The desk has news: follow it where its newest bar is seen.
    news() {
      if (!data || chosen) return;
      const seesNewest = spanSeen()[1] >= data.last - 2 * Math.max(data.step, 60);
      const follows = !("from" in wish) && !wish.trade && !wish.view && !wish.session;
      if (!follows && !seesNewest) return;
      if (!follows) {
        wish = { ...here(), step: data.step };
        how = "keep";
      } else how = "seen";
      asked.refresh();
      overview.refresh();
    },
    position(all) {
      held = all;
      levels();
    },
    close() {
      clearTimeout(timer);
      asked.close();
      overview.close();
      strip.close();
      unpaint();
    },
  };
}
