// What is read from the server: one stream with every change, and resources on request. A resource never has more than
// one request in flight, and a hidden page requests nothing. A request that fails or stays without an answer is made again.

const ANSWER_MS = 30_000;
const RETRY_MS = 1000; // after the first failure; doubled after each further one
const RETRY_MOST_MS = 10_000;

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// The address of a request; values that are empty are left out.
export function target(path, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value !== undefined));
  return `/api/${path}${query.size ? `?${query}` : ""}`;
}

export async function ask(path, params = {}, signal = undefined) {
  const answer = await fetch(target(path, params), { signal, cache: "no-store" });
  let body = null;
  try {
    body = await answer.json();
  } catch (problem) {
    if (answer.ok || !(problem instanceof SyntaxError)) throw problem;
  }
  if (!answer.ok) throw new Refused(body?.error ?? `the dashboard answered ${answer.status}`, answer.status);
  return body;
}

// `refresh()` asks now, or once more after the request in flight. Changes closer together than `every_ms` are delayed,
// but not a person's choice (`refresh(true)`). What the server refuses for good (4xx) is not asked again.
export function resource(question, show, fail, every_ms = 0) {
  let asking = null;
  let again = false;
  let closed = false;
  let timer = 0;
  let last = -Infinity;
  let failures = 0;
  async function go() {
    timer = 0;
    if (closed || document.hidden) return;
    asking = new AbortController();
    last = performance.now();
    let retry = false;
    try {
      const answer = await question(AbortSignal.any([asking.signal, AbortSignal.timeout(ANSWER_MS)]));
      failures = 0;
      if (!closed) show(answer);
    } catch (problem) {
      if (!closed && problem.name !== "AbortError") {
        retry = !(problem instanceof Refused && problem.status < 500);
        fail(problem.name === "TimeoutError" ? new Error(`no answer within ${ANSWER_MS / 1000} s`) : problem);
      }
    }
    asking = null;
    if (again) {
      again = false;
      refresh(true);
    } else if (retry && !closed && !timer) {
      timer = setTimeout(go, Math.min(RETRY_MOST_MS, RETRY_MS * 2 ** failures));
      failures += 1;
    }
  }
  function refresh(chosen = false) {
    if (closed || (timer && !chosen)) return;
    if (asking) {
      again = true;
      return;
    }
    clearTimeout(timer);
    timer = 0;
    const wait = chosen ? 0 : Math.max(0, last + every_ms - performance.now());
    if (wait > 0) timer = setTimeout(go, wait);
    else go();
  }
  function close() {
    closed = true;
    clearTimeout(timer);
    asking?.abort();
    document.removeEventListener("visibilitychange", seen);
  }
  const seen = () => !document.hidden && refresh();
  document.addEventListener("visibilitychange", seen);
  return { refresh, close };
}

// The stream of one desk. `show(now)` for each state, `connection(state)` with "open", "lost" or "hidden".
export function stream(desk, show, connection) {
  let source = null;
  let timer = 0;
  function open() {
    close();
    source = new EventSource(`/api/stream?desk=${encodeURIComponent(desk)}`);
    source.addEventListener("now", (event) => show(JSON.parse(event.data)));
    source.addEventListener("open", () => connection("open"));
    source.addEventListener("error", () => {
      connection("lost");
      if (source?.readyState === EventSource.CLOSED) timer = setTimeout(open, 3000); // it was refused: no own retry
    });
  }
  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }
  function seen() {
    if (document.hidden) {
      close();
      connection("hidden");
    } else if (!source) open();
  }
  document.addEventListener("visibilitychange", seen);
  seen();
  return {
    close() {
      document.removeEventListener("visibilitychange", seen);
      close();
    },
  };
}
