// The header of every page: desk, mode, connection, age of the data, halt and pause. It decides nothing: it shows the
// newest state and counts the seconds since.

import { chooser, el } from "./dom.js";
import { ago, author, clock, day, minute, span, words, zone } from "./format.js";

const MODES = {
  paper: "live with a paper account",
  dry_run: "dry run on live data",
  replay: "replay of recorded data",
  recorded: "replay with recorded option quotes",
};
const BY_TAPE = new Set(["replay", "recorded"]); // how long ago their newest event was says nothing
const NARROW = matchMedia("(max-width: 700px)");
const find = (id) => document.getElementById(id);

export function header({ choose }) {
  let state = null;
  let heard = 0; // performance.now() when the newest state came
  let link = "unknown";
  let since = performance.now();
  theme();
  setInterval(tick, 1000);
  addEventListener("resize", seen);
  document.querySelector("nav ul").addEventListener("scroll", faded);

  function tick() {
    if (document.hidden) return;
    const box = find("connection");
    const shown = link === "open" && state && !state.running ? "stopped" : link;
    box.dataset.state = shown;
    const silent = (performance.now() - since) / 1000;
    const labels = {
      open: "connected",
      stopped: "stopped",
      lost: `reconnecting for ${span(silent)}`,
      hidden: "paused",
      unknown: "connecting",
    };
    if (box.textContent !== labels[shown]) box.textContent = labels[shown];
    if (state) find("clock").textContent = age();
    for (const node of document.querySelectorAll("[data-ends]")) countdown(node);
  }

  function age() {
    if (!state.time) return "no event yet";
    const newest = `${day(state.time)}, ${clock(state.time)}`;
    if (BY_TAPE.has(state.mode)) return NARROW.matches ? `recorded ${day(state.time)}, ${minute(state.time)}` : `recorded time: ${newest}`;
    const passed = (performance.now() - heard) / 1000;
    const old = state.read_at - state.time + passed;
    return NARROW.matches ? `${minute(state.time)} ${zone(state.time)}, ${ago(old)}` : `${newest} · newest event ${ago(old)}`;
  }

  function countdown(node) {
    // market time goes on where the desk runs, and stands still where it does not
    const passed = state?.running && link === "open" ? (performance.now() - heard) / 1000 : 0;
    const left = Number(node.dataset.ends) - ((state?.time ?? 0) + passed);
    node.textContent = left > 0 ? `${span(left)} left` : "over with the next event";
  }

  function show(now) {
    state = now;
    heard = performance.now();
    const money = now.mode === "live";
    find("live-money").hidden = !money;
    if (find("learns").hidden === now.learns) {
      find("learns").hidden = !now.learns;
      seen();
    }
    const mode = find("mode");
    mode.textContent = money ? "LIVE MONEY" : (MODES[now.mode] ?? words(now.mode));
    mode.className = money ? "badge live" : "badge plain";
    find("clock").classList.toggle("old", now.stale !== "" || link !== "open");
    const stale = find("stale");
    stale.hidden = now.stale === "";
    stale.textContent = now.stale && `Not live: ${now.stale}`;
    stale.classList.toggle("stopped", !now.running && now.stale.startsWith("the desk is stopped")); // "stopped" stands there too
    banner(now);
    tick();
  }

  function banner(now) {
    const lines = warnings(now);
    const box = find("banner");
    const key = JSON.stringify(lines);
    if (box.dataset.key === key) return; // shown once, not with every event
    box.dataset.key = key;
    box.replaceChildren(...lines.map(([kind, text]) => el("p", { class: `banner ${kind}` }, text)));
  }

  function connection(now) {
    if (now !== link) since = performance.now();
    link = now;
    find("clock").classList.toggle("old", now !== "open" || (state?.stale ?? "") !== "");
    tick();
  }

  function desk(desks, line) {
    state = null;
    find("learns").hidden = true;
    const box = find("desk");
    box.replaceChildren();
    if (desks.length > 1) {
      box.append(chooser("Desk", desks.map((one) => [one.name, called(one)]), line.name, choose));
    } else {
      box.append(el("strong", { class: "desk-name" }, line?.name ?? ""));
    }
    if (desks.length === 1 && line && line.strategy !== line.name) box.append(el("span", { class: "muted" }, ` ${words(line.strategy)}`));
    find("mode").textContent = MODES[line?.mode] ?? words(line?.mode);
    find("clock").textContent = line?.problem || "no event yet";
    find("banner").replaceChildren();
    delete find("banner").dataset.key;
  }

  function page(name, address) {
    for (const link of document.querySelectorAll("nav a")) {
      link.href = address(link.dataset.page);
      if (link.dataset.page === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    seen();
  }

  return { show, connection, desk, page };
}

// What keeps a desk from new risk, the gravest first: its tone and its words.
export function warnings(now) {
  const blocked = (now.gates ?? []).find(({ name, state }) => name === "account_blocked" && state === "denies");
  return [
    now.halt && ["halt", `HALTED${from(now.halt_since, now.time)}: ${author(now.halt)}. Nothing is opened until the desk is resumed.`],
    blocked && ["halt", `BLOCKED: ${blocked.reason}. Nothing is opened, and the broker may refuse exits too.`],
    now.pause && ["pause", `PAUSED: ${author(now.pause)}. No new risk is taken.`],
    now.claim_broken && ["pause", `CLAIM BROKEN: ${now.claim_broken}. This model takes no new risk until the desk is resumed.`],
    now.time > 0 && !now.reconciled && !BY_TAPE.has(now.mode) && ["pause", "Book and broker are not yet compared: no new risk is taken."],
  ].filter(Boolean);
}

// Since when: the time, and the day where it is another one.
function from(then, now) {
  if (!then) return "";
  return ` since ${day(then) === day(now) ? "" : `${day(then)}, `}${minute(then)} ${zone(then)}`;
}

// Scroll the list of pages, which is wider than a phone, to the page that is shown.
function seen() {
  const link = document.querySelector("nav [aria-current]");
  const list = link?.closest("ul");
  if (!list) return;
  const [inner, outer] = [link, list].map((node) => node.getBoundingClientRect());
  list.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
  faded();
}

// The list fades out where more pages follow.
function faded() {
  const list = document.querySelector("nav ul");
  list.classList.toggle("before", list.scrollLeft > 2);
  list.classList.toggle("after", list.scrollLeft + list.clientWidth < list.scrollWidth - 2);
}

// Desks may have the same name: the strategy distinguishes them.
function called({ name, strategy, problem }) {
  if (problem) return `${name} (unreadable)`;
  return strategy && strategy !== name && !name.includes(words(strategy)) ? `${name} · ${words(strategy)}` : name;
}

function theme() {
  const root = document.documentElement;
  const button = find("theme");
  const label = () => {
    button.replaceChildren("◐", el("span", {}, ` ${root.dataset.theme}`));
    button.setAttribute("aria-label", `Theme: ${root.dataset.theme}`);
  };
  button.addEventListener("click", () => {
    const order = ["system", "light", "dark"];
    root.dataset.theme = order[(order.indexOf(root.dataset.theme) + 1) % order.length];
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // storage may be forbidden: the choice lasts as long as the page
    }
    label();
    dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
  label();
}
