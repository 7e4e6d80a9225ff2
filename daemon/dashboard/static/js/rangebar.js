// All sessions in a strip under a chart, and on it the window of what is seen: drag it, drag its ends, or move them by
// the arrow keys. The strip has data of its own, so it never moves with the chart.

import { colour } from "./charts.js";
import { el } from "./dom.js";
import { day, minute } from "./format.js";

const LEAST = 24; // pixels of the window, so that both ends can be touched
const GRIP = 12;

// `move(from, to)`: seconds UTC, called while it is dragged, too.
export function rangeBar(move) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const grips = [["begin", "Begin"], ["end", "End"]].map(([name, words]) =>
    el("span", { class: `grip ${name}`, role: "slider", tabindex: 0, "aria-label": `${words} of what is seen`, "aria-valuemin": 0, data: { key: name } }),
  );
  const pane = el("div", { class: "window" }, grips);
  const box = el("div", { class: "range", role: "group", "aria-label": "All sessions, and what of them is seen" }, canvas, pane);
  let bars = []; // [time, close]
  let seen = [0, 0];
  const watch = new ResizeObserver(draw);
  watch.observe(box);
  addEventListener("themechange", draw);

  const width = () => box.clientWidth || 1;
  // A time's place among the bars, 0 to the last; times without bars have no width.
  function place(time) {
    let [low, high] = [0, bars.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (bars[middle][0] <= time) low = middle;
      else high = middle - 1;
    }
    const next = bars[low + 1];
    const share = next ? Math.min(1, Math.max(0, (time - bars[low][0]) / (next[0] - bars[low][0]))) : 0;
    return low + share;
  }
  function timeAt(at) {
    const low = Math.min(bars.length - 1, Math.max(0, Math.floor(at)));
    const next = bars[low + 1];
    return next ? bars[low][0] + (at - low) * (next[0] - bars[low][0]) : bars[low][0];
  }
  const toX = (time) => (place(time) / Math.max(1, bars.length - 1)) * width();
  const fromX = (x) => timeAt((Math.min(width(), Math.max(0, x)) / width()) * (bars.length - 1));

  function draw() {
    const [wide, high, scale] = [width(), box.clientHeight || 1, devicePixelRatio || 1];
    canvas.width = wide * scale;
    canvas.height = high * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    if (bars.length > 1) {
      const closes = bars.map(([, close]) => close);
      const [low, most] = [Math.min(...closes), Math.max(...closes)];
      pen.strokeStyle = colour("muted");
      pen.beginPath();
      closes.forEach((close, at) => pen.lineTo((at / (bars.length - 1)) * wide, high - 4 - ((close - low) / (most - low || 1)) * (high - 8)));
      pen.stroke();
    }
    frame();
  }

  function frame() {
    box.hidden = bars.length < 2;
    if (box.hidden) return;
    let [left, right] = seen.map(toX);
    if (right - left < LEAST) {
      left = Math.min(Math.max(0, (left + right - LEAST) / 2), width() - LEAST);
      right = left + LEAST;
    }
    pane.style.left = `${left}px`;
    pane.style.width = `${right - left}px`;
    grips.forEach((grip, end) => {
      grip.setAttribute("aria-valuemax", bars.length - 1);
      grip.setAttribute("aria-valuenow", Math.round(place(seen[end])));
      grip.setAttribute("aria-valuetext", `${day(seen[end])}, ${minute(seen[end])}`);
    });
    Object.assign(box.dataset, { from: Math.round(seen[0]), to: Math.round(seen[1]) });
  }

  function wish(from, to) {
    const [first, last] = [bars[0][0], bars.at(-1)[0]];
    seen = [Math.max(first, Math.min(from, to)), Math.max(from, to)];
    if (seen[1] > last && seen[1] > ends) seen[1] = Math.max(last, ends);
    frame();
    move(...seen);
  }
  let ends = 0; // the newest bar of all

  let drag = null; // { kind, at, seen as places }
  box.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || bars.length < 2) return;
    const x = event.clientX - box.getBoundingClientRect().left;
    const [left, right] = [pane.offsetLeft, pane.offsetLeft + pane.offsetWidth];
    const kind = Math.abs(x - left) <= GRIP ? "begin" : Math.abs(x - right) <= GRIP ? "end" : x > left && x < right ? "both" : "jump";
    const places = seen.map(place);
    if (kind === "jump") {
      const half = (places[1] - places[0]) / 2;
      const middle = place(fromX(x));
      shift(places, Math.min(bars.length - 1 - places[1], Math.max(-places[0], middle - half - places[0])));
    }
    drag = { kind: kind === "jump" ? "both" : kind, at: x, places: seen.map(place) };
    box.setPointerCapture(event.pointerId);
    event.preventDefault();
    if (kind === "begin" || kind === "end") grips[kind === "begin" ? 0 : 1].focus();
  });
  const shift = (places, by) => wish(timeAt(places[0] + by), timeAt(places[1] + by));
  box.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const x = event.clientX - box.getBoundingClientRect().left;
    const by = ((x - drag.at) / width()) * (bars.length - 1);
    const [from, to] = drag.places;
    if (drag.kind === "both") shift(drag.places, Math.min(bars.length - 1 - to, Math.max(-from, by)));
    else if (drag.kind === "begin") wish(timeAt(Math.max(0, from + by)), seen[1]);
    else wish(seen[0], timeAt(Math.min(bars.length - 1, to + by)));
  });
  const stop = () => (drag = null);
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) box.addEventListener(kind, stop);
  grips.forEach((grip, end) =>
    grip.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(bars.length / 10));
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far, Home: -bars.length, End: bars.length }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const places = seen.map(place);
      const limits = end ? [places[0] + 0.01, bars.length - 1] : [0, places[1] - 0.01];
      places[end] = Math.min(limits[1], Math.max(limits[0], Math.round(places[end] + by)));
      wish(timeAt(places[0]), timeAt(places[1]));
    }),
  );

  return {
    box,
    // All bars, coarsely, and the start of the newest one.
    show(all, last) {
      bars = all.map(([time, , , , close]) => [time, close]);
      ends = last;
      if (bars.length && last > bars.at(-1)[0]) bars.push([last, bars.at(-1)[1]]);
      draw();
    },
    seen(from, to) {
      if (drag) return;
      seen = [from, to];
      frame();
    },
    close() {
      watch.disconnect();
      removeEventListener("themechange", draw);
    },
  };
}
