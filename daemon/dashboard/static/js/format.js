// Numbers and times as people read them: separators, units, a true minus, New York time with its zone.
// Times come as seconds since 1970 UTC, 0 for never; everything that is unknown is shown as a dash.

const DASH = "–";
const ZONE = "America/New_York";
const clockFormat = new Intl.DateTimeFormat("en-GB", {
  timeZone: ZONE, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const minuteFormat = new Intl.DateTimeFormat("en-GB", {
  timeZone: ZONE, hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});
const dayFormat = new Intl.DateTimeFormat("en-GB", { timeZone: ZONE, day: "numeric", month: "short", year: "numeric" });
const zoneFormat = new Intl.DateTimeFormat("en-US", { timeZone: ZONE, timeZoneName: "short" });
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const numbers = new Map();

const at = (seconds) => new Date(seconds * 1000);

export function zone(seconds) {
  return zoneFormat.formatToParts(at(seconds)).find((part) => part.type === "timeZoneName").value;
}
export const clock = (seconds) => (seconds ? `${clockFormat.format(at(seconds))} ${zone(seconds)}` : DASH);
export const minute = (seconds) => (seconds ? minuteFormat.format(at(seconds)) : DASH);
export const day = (seconds) => (seconds ? dayFormat.format(at(seconds)) : DASH);
const isoFormat = new Intl.DateTimeFormat("en-CA", { timeZone: ZONE, year: "numeric", month: "2-digit", day: "2-digit" });
// The New York date as the journal names it, "2024-12-03".
export const date = (seconds) => isoFormat.format(at(seconds));
// Dates of the journal within a text, "2024-12-03" -> "3 Dec 2024"; what goes on after them, as a version's name, stays.
export const dated = (text) =>
  String(text ?? "").replace(/(?<![\w-])(\d{4})-(\d{2})-(\d{2})(?![\w-])/g, (all, year, month, date) => (MONTHS[month - 1] ? `${Number(date)} ${MONTHS[month - 1]} ${year}` : all));
export const moment = (seconds) => (seconds ? `${day(seconds)}, ${clock(seconds)}` : "never");

export function number(value, digits = 0, least = digits) {
  if (value === null || value === undefined || value === "" || Number.isNaN(Number(value))) return DASH;
  const key = `${digits}/${least}`;
  if (!numbers.has(key)) {
    numbers.set(
      key,
      new Intl.NumberFormat("en-US", { maximumFractionDigits: digits, minimumFractionDigits: least }),
    );
  }
  return numbers.get(key).format(Number(value)).replace(/^-(?=[0.,]*$)/, "").replace("-", "−"); // no minus before a nought
}

// Shares or contracts: all decimals that a fraction has, none of a whole number.
export const quantity = (value) => number(value, 9, 0);

export function usd(value, { sign = false } = {}) {
  if (value === null || value === undefined || value === "" || Number.isNaN(Number(value))) return DASH;
  const amount = Number(value);
  const mark = amount < 0 ? "−" : sign && amount > 0 ? "+" : "";
  return `${mark}$${number(Math.abs(amount), 2)}`;
}

export const signed = (value, digits = 3) => `${Number(value) > 0 ? "+" : ""}${number(value, digits)}`;
export const percent = (value, digits = 2) => (value === null || value === undefined ? DASH : `${number(value * 100, digits)} %`);
// What is left of USD that are shown in cents, so that both parts add up as they stand there.
export const left = (total, part) => (total === null ? null : (Math.round(100 * total) - Math.round(100 * part)) / 100);

export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

// A number that the policy saw, with the digits that count: 0.414, −0.000392.
export const reading = (value) => (value && Math.abs(value) < 0.1 ? exact(Number(value).toPrecision(3)) : number(value, 3));

// All that a float32 holds.
export const exact = (value) => String(Number(Number(value).toPrecision(8))).replace("-", "−");

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  const days = whole / 86400; // with a decimal, as `rltraderctl trades` says it
  return days < 730 ? `${number(days, 1)} days` : count(Math.floor(days / 365.25), "year");
}

// How long ago that was; an event may be dated ahead of this host's clock, which says nothing of its age.
export const ago = (seconds) => (seconds < -5 ? `${span(-seconds)} ahead of this host's clock` : `${span(seconds)} ago`);

// OCC symbols within a text in words, "SPY241121C00479000" -> "SPY 21 Nov 24 479 call"; all else unchanged.
const OCC = /\b([A-Z][A-Z0-9]{0,5})(\d{2})(\d{2})(\d{2})([CP])(\d{8})\b/g;
export const instrument = (text) =>
  String(text ?? "").replace(OCC, (all, root, year, month, date, right, strike) =>
    MONTHS[month - 1] ? `${root} ${Number(date)} ${MONTHS[month - 1]} ${year} ${Number(strike) / 1000} ${right === "C" ? "call" : "put"}` : all,
  );

// Who gave a command, by name alone: "… (by control/anna (uid 0))" -> "…, by anna".
export const author = (text) => String(text ?? "").replace(/\s*\(by (?:[\w.-]+\/)?([^()\s]+)(?: \(uid \d+\))?\)\s*$/, ", by $1");

// "BUY_CALL" -> "buy call", "daily_loss" -> "daily loss".
export const words = (name) => String(name ?? "").replaceAll("_", " ").toLowerCase();
// What a number of an answer is about: "BUY SPY" -> "buy SPY".
export const output = (name) => {
  const [action, ...symbol] = String(name ?? "").split(" ");
  return [words(action), ...symbol].join(" ");
};
export const side = (value) => (value > 0 ? "buy" : "sell");
