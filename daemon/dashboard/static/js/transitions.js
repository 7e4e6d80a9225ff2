// The past of a desk that learns, a transition at a time: what was seen, done, earned, and seen then.

import { card, el, empty, figures, table } from "./dom.js";
import { ask, resource } from "./feed.js";
import { count, moment, number, percent, quantity, signed, usd, words } from "./format.js";
import { outcome, sentence, trouble } from "./parts.js";

const AGAIN_MS = 700;

export function transitions({ desk, address }) {
  const problems = trouble();
  const box = card("Past transitions", {
    id: "transitions",
    wide: true,
    note: "A decision as the trainer gets it: state, action, reward and next state. The reward shown is the gain after costs as a part of the equity, the trainer's default; its other terms are its own.",
  });
  let wanted = 0; // 0: the newest one that is complete
  let page = null;
  let again = 0;
  const lines = resource((signal) => ask(`transition/${wanted}`, { desk }, signal), show, problems.fail, 0);
  const step = (name, turn) => el("button", { type: "button", on: { click: turn } }, name);
  const back = step("← Earlier", () => turn(page?.previous));
  const on = step("Later →", () => turn(page?.next));
  const newest = step("Newest", () => turn(0));
  box.head.append(el("div", { class: "controls", role: "group", "aria-label": "Walk through the transitions" }, back, on, newest));
  box.section.insertBefore(problems.box, box.body);

  function turn(number) {
    if (number === undefined) return;
    wanted = number;
    clearTimeout(again);
    lines.refresh(true);
  }

  function show(data) {
    problems.fine();
    page = data;
    back.disabled = !data.previous;
    on.disabled = !data.next;
    box.show(data, () => drawn(data, address));
    clearTimeout(again);
    if (data.pending) {
      wanted = data.decision;
      again = setTimeout(() => lines.refresh(), AGAIN_MS);
    }
  }

  let begun = false;
  return {
    section: box.section,
    begin() {
      if (!begun) lines.refresh();
      begun = true;
    },
    close() {
      clearTimeout(again);
      lines.close();
    },
  };
}

function drawn(data, address) {
  return [
    figures(
      [
        ["Decision", number(data.decision), moment(data.time)],
        ["Outcome", outcome(data), data.model && `model ${data.model}`],
        !data.missing && !data.pending && ["What followed", data.terminal ? "the session's end" : count(data.bars, "bar later", "bars later"), data.session],
        !data.missing && !data.pending && ["Equity", usd(data.equity), `then ${usd(data.next_equity)}`],
      ],
      "figures small",
    ),
    data.why.map((text) => el("p", {}, sentence(text))),
    data.pending && empty("Still being computed: the desk is replayed up to this decision."),
    data.missing && empty(`Nothing to show: ${data.missing}.`),
    data.rows.map((line) => row(line, data)),
    data.decision > 0 && el("p", {}, el("a", { class: "action", data: { key: "transition" }, href: address("decision", [data.decision]) }, `Open decision ${number(data.decision)}`)),
  ];
}

function row(line, data) {
  const other = line.learned !== line.action;
  return el(
    "div",
    { class: "holding", data: { symbol: line.symbol } },
    el("h3", {}, line.symbol),
    figures(
      [
        ["Action", words(line.action), line.action === line.greedy ? "the largest value" : `explored: the largest value was ${words(line.greedy)}`],
        other && ["Learned as", words(line.learned), `it was ${words(data.became)}`],
        ["Reward", signed(line.reward, 6), usd(line.gain, { sign: true })],
        ["Shares", `${quantity(line.shares)} → ${quantity(line.next_shares)}`, line.fees ? `fees ${usd(line.fees)}` : ""],
        ["Mark", `${usd(line.mark)} → ${usd(line.next_mark)}`],
        ["Probabilities", line.probabilities.map(([name, share]) => `${words(name)} ${percent(share)}`).join(", ")],
      ],
      "figures small",
    ),
    table(
      `State of ${line.symbol} at the decision, and then`,
      [
        { name: "Feature", of: (cell) => cell.feature },
        { name: "State", number: true, of: (cell) => signed(cell.before, 4) },
        { name: "Next state", number: true, of: (cell) => (cell.after === null ? "–" : signed(cell.after, 4)) },
      ],
      line.state,
      { tight: true, row: (cell) => ({ data: { feature: cell.feature } }) },
    ),
  );
}
