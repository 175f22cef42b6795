// Numbers, sizes and times, as people read them. All of them are written in English, like the page.

const WHOLE = new Intl.NumberFormat("en-US");
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const PLAIN = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
const MEAN = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];

export const NONE = "–";

/** 12,345 */
export const whole = (number) => WHOLE.format(number);

/** 12.3K */
export const short = (number) => (Math.abs(number) < 10_000 ? PLAIN.format(number) : SHORT.format(number));

/** A reward: 3, 0.25, –; what is no number is told as it is. */
export const reward = (value) => (value === null || value === undefined ? NONE : typeof value === "number" ? PLAIN.format(value) : String(value));

/** 7.9: of what is a mean. */
export const mean = (number) => MEAN.format(number);

/** 3 records, 1 record */
export const counted = (number, noun, plural = `${noun}s`) => `${whole(number)} ${number === 1 ? noun : plural}`;

/** 1.62 MB, in powers of 1000, as disks and `ls --si` count. */
export function bytes(number) {
  let unit = 0;
  let size = number;
  while (size >= 999.5 && unit < SIZES.length - 1) {
    size /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${size.toFixed(digits)} ${SIZES[unit]}`;
}

/** 40 ms, 3.2 s, 45 s, 4 min, 2 h 5 min, 3 d 4 h */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** A time that goes on, in whole seconds: it is shown live, and tenths would flicker. */
export const wait = (seconds) => (seconds < 10 ? `${Math.max(0, Math.floor(seconds))} s` : duration(seconds));

/** An age. */
export const age = (seconds) => (seconds < 1 ? "now" : `${wait(seconds)} ago`);

/** A rate a minute: 0, 0.42, 8.3, 412. */
export const rate = (number) => (number === 0 ? "0" : number < 10 ? number.toPrecision(2) : short(Math.round(number)));

/** 14:03:09, with the day if it is another one; seconds since 1970. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  return date.toDateString() === new Date().toDateString() ? TIME.format(date) : DAY.format(date);
}
