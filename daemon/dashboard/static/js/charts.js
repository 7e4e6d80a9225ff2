// Charts, drawn by TradingView Lightweight Charts: candles with fills, the equity with its drawdown, returns. Times are
// true; only their labels are New York's. A table next to each shows the same. The large chart is in `explore.js`.

import { append, el } from "./dom.js";
import { clock, day, instrument, minute, number, percent, signed, usd } from "./format.js";

const DAILY_S = 6 * 3600;
const TIMES_UP_TO = 4; // days: beyond, an axis shows dates alone
const MONTHS_FROM = 120;
const EDGE = 26; // pixels
const LABEL = 15; // pixels of a label on an axis
const GRID_MOST = 4000; // places of a time axis
const NARROWEST = 0.01; // pixels from bar to bar: twelve years of days fit on a phone

export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/\d+(\.\d+)?/g).map(Number);
  probe.remove();
  return `rgb(${r}, ${g}, ${b})`;
}

function look() {
  return {
    layout: {
      background: { type: "solid", color: colour("surface") },
      textColor: colour("muted"),
      attributionLogo: false, // it needs an inline style, which the page's policy forbids; the footer has it
      panes: { separatorColor: colour("line") },
      fontFamily: "system-ui, sans-serif",
    },
    grid: { vertLines: { color: colour("grid") }, horzLines: { color: colour("grid") } },
  };
}

export function chart(container, { daily = () => false, moves = false } = {}) {
  const label = (seconds) => (daily() ? day(seconds) : `${day(seconds)}, ${clock(seconds)}`);
  const board = LightweightCharts.createChart(container, {
    ...look(),
    autoSize: true,
    handleScroll: { vertTouchDrag: false, mouseWheel: moves },
    handleScale: { mouseWheel: moves },
    rightPriceScale: { borderVisible: false, entireTextOnly: true },
    timeScale: {
      borderVisible: false,
      timeVisible: true,
      secondsVisible: false,
      minBarSpacing: NARROWEST,
      lockVisibleTimeRangeOnResize: true,
      tickMarkFormatter: (seconds, kind) => tick(seconds, kind, board),
    },
    localization: { timeFormatter: label },
  });
  return board;
}

// Show all points of a chart, with room for half a label at both ends.
export function fit(board, points) {
  const room = (points * EDGE) / Math.max(board.timeScale().width(), 4 * EDGE);
  if (points) board.timeScale().setVisibleLogicalRange({ from: -room, to: points - 1 + room });
}

// A mark of the time axis: years, months or days where more than a few days are shown, clock times else, never both.
function tick(seconds, kind, board) {
  const range = board?.timeScale().getVisibleRange();
  const days = range ? (range.to - range.from) / 86_400 : 0;
  if (kind >= 3) return days > TIMES_UP_TO ? "" : minute(seconds);
  const [date, month, year] = day(seconds).split(" ");
  if (kind === 0) return year;
  if (days > MONTHS_FROM) return kind === 1 ? month : "";
  return `${date} ${month}`;
}

// Numbers of an axis, without those that the label of a value covers. `labelled()` gives the values with a label.
export function axis(write, series, labelled, more = {}) {
  const covered = (price) => {
    const at = series()?.priceToCoordinate(price) ?? null;
    if (at === null) return false;
    return labelled().some((value) => Math.abs((series().priceToCoordinate(value) ?? Infinity) - at) < LABEL);
  };
  return { type: "custom", minMove: 0.01, formatter: write, tickmarksFormatter: (prices) => prices.map((price) => (covered(price) ? "" : write(price))), ...more };
}

// A line of text above a chart: what is under the pointer, else the newest.
export function legend(container, board, describe) {
  const line = el("p", { class: "reading" });
  container.before(line);
  let at = null;
  const show = () => {
    line.replaceChildren();
    append(line, [describe(at)]);
  };
  board.subscribeCrosshairMove((event) => {
    const time = event.point ? (event.time ?? null) : null;
    if (time === at) return;
    at = time;
    show();
  });
  return show;
}

// Minutes in their places: where points are closer than a day the gaps within each day are kept. Nights are left out.
function spaced(points) {
  const close = points.filter((point, index) => index && day(point.time) === day(points[index - 1].time)).length;
  if (close < points.length / 2) return points;
  const placed = [];
  const together = points.reduce((sum, point, index) => sum + (index && day(point.time) === day(points[index - 1].time) ? point.time - points[index - 1].time : 0), 0);
  const step = 60 * Math.max(1, Math.ceil(together / 60 / GRID_MOST));
  for (const point of points) {
    const last = placed.at(-1);
    if (last && day(last.time) === day(point.time)) {
      for (let time = Math.floor(last.time / step + 1) * step; time < point.time; time += step) placed.push({ time });
    }
    placed.push(point);
  }
  return placed;
}

// Whether these bars are days: nothing of a minute desk is so far apart.
export const daily = (bars) => bars.length > 1 && bars[1][0] - bars[0][0] > DAILY_S;

// How long a bar is, in words: the shortest step from one to the next.
export function interval(bars) {
  const steps = bars.slice(1).map(([time], place) => time - bars[place][0]);
  if (!steps.length) return "";
  const step = Math.min(...steps);
  return step > DAILY_S ? "1 day" : `${number(step / 60)} min`;
}

export function priceChart(container, open) {
  let days = false;
  const board = chart(container, { daily: () => days });
  const labelled = () => (shown.length ? [shown.at(-1).close] : []);
  const candles = board.addSeries(LightweightCharts.CandlestickSeries, candleColours());
  candles.applyOptions({ priceFormat: axis((price) => number(price, 2), () => candles, labelled) });
  candles.priceScale().applyOptions({ scaleMargins: { top: 0.12, bottom: 0.1 } });
  const marks = LightweightCharts.createSeriesMarkers(candles, [], { autoScale: false });
  const here = upright();
  candles.attachPrimitive(here.primitive);
  let decided = null; // the bar that a decision was made on
  let fitted = "";
  let shown = [];
  let fills = [];
  const read = legend(container, board, (time) => {
    const bar = time === null ? (decided ?? shown.at(-1)) : shown.find((one) => one.time === time);
    if (!bar) return "";
    const here = time === null ? [] : fills.filter((mark) => barOf(mark, shown) === bar).map((mark) => instrument(mark.text));
    return [el("b", {}, days ? day(bar.time) : `${day(bar.time)}, ${minute(bar.time)}`), bar === decided && " decided on this bar:", ...["open", "high", "low", "close"].map((name) => ` ${name[0].toUpperCase()} ${number(bar[name], 2)}`), here.length > 0 && ` · ${here.join("; ")}`];
  });
  board.subscribeClick((event) => {
    const number = Number(event.hoveredInfo?.objectId ?? event.hoveredObjectId);
    if (number > 0) open(number);
  });

  function show(price) {
    const bars = rising(price.bars.map(([time, o, h, l, c]) => ({ time, open: o, high: h, low: l, close: c })));
    days = daily(price.bars);
    shown = bars;
    fills = price.marks;
    decided = price.decided && bars.length ? barOf({ time: price.decided }, bars) : null;
    here.at(decided?.time ?? null, "decided");
    container.dataset.decided = decided?.time ?? "";
    candles.setData(bars);
    const last = bars.at(-1);
    candles.applyOptions({ priceLineColor: colour(last && last.close < last.open ? "bad" : "good") }); // that of a hollow body is the ground's
    marks.setMarkers(fills.map((mark) => marker(mark, bars)).filter(Boolean));
    const which = `${price.symbol} ${price.session}`;
    if (which !== fitted) fit(board, bars.length);
    fitted = which;
    container.dataset.bars = bars.length;
    container.dataset.marks = fills.length;
    read();
    container.setAttribute(
      "aria-label",
      last
        ? `Candles of ${price.symbol}, ${price.session}: ${number(bars.length)} bars, ` +
            `last close ${usd(last.close)}, ${number(fills.length)} fills, listed below.`
        : "No bars yet.",
    );
  }

  const paint = () => {
    candles.applyOptions({ ...candleColours(), priceLineColor: colour(shown.at(-1)?.close < shown.at(-1)?.open ? "bad" : "good") });
    here.paint();
  };
  return { show, close: themed(board, paint) };
}

export function candleColours() {
  const up = colour("good");
  const down = colour("bad");
  // hollow: closed higher. The shape shows it as well as the colour
  return {
    upColor: colour("surface"), downColor: down, borderUpColor: up, borderDownColor: down, wickUpColor: up, wickDownColor: down,
  };
}

// A dashed upright line at a time with a word at its top, behind the candles and their arrows.
function upright() {
  let board = null;
  let draw = () => {};
  let [time, text, tone] = [null, "", colour("muted")];
  const renderer = {
    draw: (target) =>
      target.useMediaCoordinateSpace(({ context, mediaSize }) => {
        const x = time === null ? null : board.timeScale().timeToCoordinate(time);
        if (x === null) return;
        context.save();
        context.strokeStyle = context.fillStyle = tone;
        context.font = "12px system-ui, sans-serif";
        context.textAlign = x > mediaSize.width - 50 ? "right" : x < 50 ? "left" : "center";
        context.fillText(text, x, 12);
        context.setLineDash([3, 4]);
        context.beginPath();
        context.moveTo(x, 18);
        context.lineTo(x, mediaSize.height);
        context.stroke();
        context.restore();
      }),
  };
  const view = { renderer: () => renderer, zOrder: () => "bottom" };
  return {
    primitive: {
      attached({ chart: of, requestUpdate }) {
        board = of;
        draw = requestUpdate;
      },
      paneViews: () => [view],
    },
    at(when, words) {
      [time, text] = [when, words];
      draw();
    },
    paint() {
      tone = colour("muted");
      draw();
    },
  };
}

export const barOf = (mark, bars) => bars.findLast((other) => other.time <= mark.time) ?? bars[0];

export function marker(mark, bars) {
  const bar = barOf(mark, bars);
  if (!bar) return null;
  const entry = mark.kind === "entry";
  return {
    time: bar.time,
    position: entry ? "belowBar" : "aboveBar",
    shape: entry ? "arrowUp" : "arrowDown",
    color: colour(entry ? "accent" : "warn"),
    id: String(mark.decision),
    text: mark.count > 1 ? String(mark.count) : undefined,
    size: 1,
  };
}

export function equityChart(container) {
  const board = chart(container);
  let newest = [];
  const money = axis(usd, () => equity, () => newest.slice(0, 1));
  const share = axis((value) => percent(value / 100), () => fall, () => newest.slice(1));
  const equity = board.addSeries(LightweightCharts.LineSeries, { lineWidth: 2, priceFormat: money });
  const fall = board.addSeries(LightweightCharts.BaselineSeries, { lineWidth: 1, priceFormat: share }, 1); // filled from 0 down
  fall.priceScale().applyOptions({ tickMarkDensity: 1.6, scaleMargins: { top: 0.1, bottom: 0.15 } });
  board.panes()[1].setHeight(95);
  let course = { times: [], equity: [], drawdown: [] };
  const read = legend(container, board, (time) => {
    const place = time === null ? course.times.length - 1 : course.times.findLastIndex((one) => Math.floor(one) <= time);
    if (place < 0) return "";
    return [el("b", {}, `${day(course.times[place])}, ${minute(course.times[place])}`), ` equity ${usd(course.equity[place])} · drawdown ${percent(-course.drawdown[place])}`];
  });
  const paint = () => {
    equity.applyOptions({ color: colour("accent") });
    fall.applyOptions({ topLineColor: colour("bad"), bottomLineColor: colour("bad"), bottomFillColor1: colour("bad-soft"), bottomFillColor2: colour("bad-soft") });
  };
  paint();

  function show(found) {
    course = found;
    newest = course.times.length ? [course.equity.at(-1), -100 * course.drawdown.at(-1)] : [];
    const points = rising(spaced(course.times.map((time, index) => ({ time, value: course.equity[index] }))));
    equity.setData(points);
    fall.setData(rising(course.times.map((time, index) => ({ time, value: -100 * course.drawdown[index] }))));
    read();
    fit(board, points.length);
    container.dataset.points = course.times.length;
    const deepest = Math.max(0, ...course.drawdown);
    container.setAttribute(
      "aria-label",
      course.times.length
        ? `Equity from ${usd(course.equity[0])} on ${day(course.times[0])} to ${usd(course.equity.at(-1))} on ` +
            `${day(course.times.at(-1))}; deepest drawdown ${percent(-deepest)}.`
        : "No equity yet.",
    );
  }
  return { show, close: themed(board, paint) };
}

const STYLES = [["accent", 0], ["warn", 2], ["good", 1], ["bad", 3], ["text", 4]]; // tone, and pattern
export const PATTERNS = ["whole", "dashed", "dotted", "long", "sparse"]; // their samples, as classes of the style sheet

// Returns since the begin of a span, or another share (`what`): the first line, and what is next to it in other patterns.
export function returnsChart(container, what = "Return since the span began") {
  const board = chart(container);
  const ends = () => drawn.map((line) => 100 * (line.shares.at(-1) ?? 0));
  const share = axis((value) => `${signed(value, 2)} %`, () => lines[0], ends);
  board.timeScale().subscribeVisibleTimeRangeChange((range) => (container.dataset.from = range?.from ?? ""));
  let lines = [];
  let drawn = [];
  const paint = () => lines.forEach((line, place) => line.applyOptions({ color: colour(STYLES[place][0]) }));
  const read = legend(container, board, (time) => {
    const at = time ?? Math.max(...drawn.map((line) => Math.floor(line.times.at(-1) ?? 0)));
    const value = (line) => line.shares[line.times.findLastIndex((one) => Math.floor(one) <= at)];
    return drawn.length > 0 && [el("b", {}, day(at)), drawn.map((line) => ` ${line.name} ${value(line) === undefined ? "–" : `${signed(100 * value(line), 2)} %`}`).join(" ·")];
  });

  function show(shown) {
    drawn = shown.slice(0, STYLES.length);
    const times = new Set();
    lines.forEach((line) => board.removeSeries(line));
    lines = shown.slice(0, STYLES.length).map((line, place) => {
      const [, pattern] = STYLES[place];
      const series = board.addSeries(LightweightCharts.LineSeries, {
        lineWidth: 2, lineStyle: pattern, priceFormat: share, priceLineVisible: false,
      });
      const points = rising(spaced(line.times.map((time, index) => ({ time, value: 100 * line.shares[index] }))));
      series.setData(points);
      points.forEach((point) => times.add(point.time));
      return series;
    });
    paint();
    read();
    if (lines.length) lines[0].createPriceLine({ price: 0, color: colour("muted"), lineWidth: 1, lineStyle: 3, axisLabelVisible: false });
    fit(board, times.size);
    container.dataset.points = shown[0]?.times.length ?? 0;
    const sums = shown.map((line) => `${line.name} ${signed(100 * (line.shares.at(-1) ?? 0), 2)} %`);
    container.setAttribute("aria-label", shown.length ? `${what}: ${sums.join(", ")}.` : "No day yet.");
  }
  return { show, close: themed(board, paint) };
}

const PANES = 3;
const TONES = ["accent", "bad", "good"];

// Figures of a trainer over time, each in a pane of its own.
export function courseChart(container) {
  const board = chart(container);
  let lines = [];
  let names = [];
  const paint = () => lines.forEach((line, place) => line.applyOptions({ color: colour(TONES[place]) }));

  function show(points, wanted) {
    const shown = wanted.slice(0, PANES);
    if (JSON.stringify(shown) !== JSON.stringify(names)) {
      lines.forEach((line) => board.removeSeries(line));
      names = shown;
      lines = names.map((name, place) => board.addSeries(LightweightCharts.LineSeries, { lineWidth: 2, title: name }, place));
      paint();
    }
    names.forEach((name, place) => {
      const known = points.filter((point) => point.figures[name] !== undefined);
      lines[place].setData(rising(known.map((point) => ({ time: point.time, value: point.figures[name] }))));
    });
    fit(board, new Set(points.map((point) => Math.floor(point.time))).size);
    container.dataset.points = points.length;
    const newest = points.at(-1);
    const told = names.map((name) => `${name} ${number(newest?.figures[name], 4)}`).join(", ");
    container.setAttribute("aria-label", newest ? `Course of ${told}, over ${number(points.length)} points; the newest are listed below.` : "Nothing learned yet.");
  }
  return { show, close: themed(board, paint) };
}

// The library wants whole seconds, each once, rising: of equal ones the last counts.
export function rising(points) {
  const kept = [];
  for (const point of points) {
    const time = Math.floor(point.time);
    if (kept.length && kept.at(-1).time >= time) kept.pop();
    kept.push({ ...point, time });
  }
  return kept;
}

export function themed(board, paint) {
  const change = () => {
    board.applyOptions(look());
    paint();
  };
  addEventListener("themechange", change);
  return () => {
    removeEventListener("themechange", change);
    board.remove();
  };
}
