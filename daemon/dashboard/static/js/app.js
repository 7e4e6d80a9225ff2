// The pages and what they share: which desk, which page, the stream. A page is `{ title, mount(main, context, …) }` and
// gives back `{ update(now), close(), route(…) }`; the route stands in the address, so that it can be kept and sent, with
// what of the page is viewed (`view`, and `keep` to change it).

import { el } from "./dom.js";
import { ask, stream } from "./feed.js";
import { header } from "./header.js";

// Each page's module is loaded when it is first opened.
const PAGES = ["fleet", "now", "performance", "trades", "decisions", "decision", "models", "runs", "learning", "risk", "health"];
const loaded = new Map();
const main = document.getElementById("main");
const top = header({ choose: (desk) => go(route().page, route().rest, desk) });
let desks = [];
let shown = null; // { name, desk, page }
let followed = null;
let newest = null;

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  const view = new URLSearchParams(query);
  const desk = view.get("desk") ?? "";
  view.delete("desk");
  return { page: page || (desks.length > 1 && !desk ? "fleet" : "now"), rest, desk, view };
}

// The address of a page of the desk that is shown.
export function address(page, rest = [], desk = shown?.desk ?? "", view = new URLSearchParams()) {
  const query = new URLSearchParams([...(desks.length > 1 && desk ? [["desk", desk]] : []), ...view]);
  return `#/${[page, ...rest].join("/")}${query.size ? `?${query}` : ""}`;
}

// Note in the address what is viewed: neither a new page nor a step back.
function keep(view) {
  const { page, rest } = route();
  history.replaceState(null, "", address(page, rest, shown.desk, view));
}

function go(page, rest, desk) {
  location.hash = address(page, rest, desk);
}

function follow(desk) {
  followed?.close();
  newest = null;
  followed = stream(
    desk,
    (state) => {
      newest = state;
      top.show(state);
      shown?.page.update?.(state);
    },
    (state) => top.connection(state),
  );
}

let asked = 0; // which call of `render` is the newest: a module may come late

async function render() {
  if (location.hash && !location.hash.startsWith("#/")) return; // the skip link
  const { page, rest, desk: wished, view } = route();
  const missing = !PAGES.includes(page) ? `a page "${page}"` : wished && !desks.some((line) => line.name === wished) ? `a desk "${wished}"` : "";
  if (missing) {
    nothing(missing);
    return;
  }
  const desk = desks.some((line) => line.name === wished) ? wished : (desks[0]?.name ?? "");
  const line = desks.find((other) => other.name === desk);
  const first = shown === null;
  const number = ++asked;
  if (!loaded.has(page)) {
    try {
      loaded.set(page, await import(`./${page}.js`));
    } catch {
      if (number === asked) main.replaceChildren(el("h1", { tabindex: -1 }, "Not loaded"), el("p", {}, `The page "${page}" could not be loaded: reload it when the dashboard runs.`));
      return;
    }
    if (number !== asked) return;
  }
  if (shown?.desk !== desk) {
    top.desk(desks, line);
    follow(desk);
  }
  if (shown && shown.name === page && shown.desk === desk && shown.page.route) {
    shown.page.route(...rest);
  } else {
    shown?.page.close?.();
    main.replaceChildren();
    shown = { name: page, desk, page: {} };
    const context = { desk, strategy: line?.strategy ?? "", address, go: (to, more) => go(to, more, desk), view, keep };
    shown.page = loaded.get(page).mount(main, context, ...rest) ?? {};
    if (newest) shown.page.update?.(newest);
    if (!first) main.querySelector("h1")?.focus({ preventScroll: false });
  }
  document.body.dataset.shown = page;
  top.page(page === "decision" ? "decisions" : page, address);
  document.title = ["fleet", "runs"].includes(page) ? `${loaded.get(page).title} · rltrader` : `${loaded.get(page).title} · ${desk} · rltrader`;
}

// An address that leads nowhere: one sentence, and where to go on.
function nothing(what) {
  shown?.page.close?.();
  if (!shown) {
    top.desk(desks, desks[0]);
    follow(desks[0].name);
  }
  shown = { name: "", desk: shown?.desk ?? desks[0].name, page: {} };
  const [page, name] = desks.length > 1 ? ["fleet", "All desks"] : ["now", "Now"];
  main.replaceChildren(el("h1", { tabindex: -1 }, "Not here"), el("p", {}, `This dashboard does not have ${what.slice(0, 80)}. `, el("a", { class: "action", href: address(page) }, name)));
  document.body.dataset.shown = "";
  document.title = "Not here · rltrader";
  top.page("", address);
}

async function start() {
  try {
    desks = await ask("desks");
  } catch (problem) {
    main.replaceChildren(
      el("h1", {}, "No answer"),
      el("p", {}, `The list of desks could not be read (${problem.message}). It is asked for again every three seconds.`),
    );
    setTimeout(start, 3000);
    return;
  }
  if (!desks.length) {
    main.replaceChildren(el("h1", {}, "No desk"), el("p", {}, "The dashboard was started without a state directory."));
    return;
  }
  const several = document.getElementById("several");
  several.hidden = desks.length < 2;
  addEventListener("hashchange", render);
  render();
  // the account of a gateway stands on the page of all desks, be it one
  if (several.hidden) ask("fleet").then(({ gateways }) => void (several.hidden = !gateways.length), () => {});
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
start();
