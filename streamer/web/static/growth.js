// Growth over time: how much there is, as steps, and how fast it came, as bars. Kept history, continued live.

import { get } from "./api.js";
import { h, say, set } from "./dom.js";
import * as format from "./format.js";
import { live, now } from "./live.js";
import { colour, onChange } from "./theme.js";
import uPlot from "./vendor/uplot/uPlot.js";

const MOST = 12_000; // points; beyond, the history is asked for again, which is thinned out with age
const BARS = 90;
const SHORTEST = 10; // seconds that can be zoomed to
const SYNC = "growth";

const WHAT = {
  records: { name: "Records", format: format.short, total: (number) => format.counted(number, "record") },
  rollouts: { name: "Rollouts", format: format.short, total: (number) => format.counted(number, "rollout") },
  bytes: { name: "Bytes", format: format.bytes, total: format.bytes },
};

const WINDOWS = [
  ["5 min", 300],
  ["1 h", 3_600],
  ["6 h", 21_600],
  ["24 h", 86_400],
  ["7 d", 604_800],
  ["All", Infinity],
];

/** The points of the history, oldest first, in columns. */
class History {
  constructor() {
    this.clear();
    this.loading = false;
    this.later = []; // what came while the past was asked for
  }

  clear() {
    this.columns = { at: [], records: [], rollouts: [], bytes: [] };
  }

  get last() {
    return this.columns.at.at(-1) ?? 0;
  }

  /** Take what the daemon has kept since the last point, or all of it. */
  async load() {
    if (this.loading) return;
    this.loading = true;
    try {
      if (this.columns.at.length > MOST) this.clear();
      const kept = await get("/api/history", { since: this.last || null });
      kept.at.forEach((at, i) => this.#put(at, kept.records[i], kept.rollouts[i], kept.bytes[i]));
    } finally {
      this.loading = false;
      for (const point of this.later.splice(0)) this.#put(...point);
    }
  }

  /** Take one more point, in seconds and counts. */
  add(...point) {
    if (this.loading) this.later.push(point);
    else this.#put(...point);
  }

  #put(at, records, rollouts, bytes) {
    if (at <= this.last) return;
    const { columns } = this;
    columns.at.push(at);
    columns.records.push(records);
    columns.rollouts.push(rollouts);
    columns.bytes.push(bytes);
  }

  /** Return a column's value at a time: that of the last point before it; before the first one, that of the first. */
  value(what, at) {
    const times = this.columns.at;
    let low = 0;
    let high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] <= at) low = middle + 1;
      else high = middle;
    }
    return this.columns[what][Math.max(0, low - 1)] ?? 0;
  }
}

/** Return the growth section: `element`, `update(state)`, `tick()`, which lets time go on, and `close()`. */
export function growth() {
  const history = new History();
  let what = "records";
  let span = 3_600; // seconds up to now, or
  let zoom = null; // [from, to], as a person chose

  const total = h("div", { class: "plot plot-total" });
  const pace = h("div", { class: "plot plot-pace" });
  const summary = h("p", { class: "note", id: "growth-summary" });
  const plots = h(
    "div",
    { class: "plots", tabindex: 0, role: "group", "aria-label": "Plot of growth. Arrow keys move, plus and minus zoom, 0 shows the newest.", "aria-describedby": "growth-summary", onkeydown: onKey },
    h("div", { class: "plot-name", id: "total-name" }),
    total,
    h("div", { class: "plot-name", id: "pace-name" }),
    pace,
  );
  const kinds = choices("What to plot", Object.entries(WHAT).map(([key, { name }]) => [name, key]), () => what, (key) => {
    what = key;
    draw();
  });
  const windows = choices("Time shown", WINDOWS, () => (zoom ? null : span), (seconds) => {
    span = seconds;
    zoom = null;
    draw();
  });
  const element = h(
    "section",
    { class: "card growth", "aria-labelledby": "growth-title" },
    h("div", { class: "card-head" }, h("h2", { id: "growth-title" }, "Growth"), kinds.element, windows.element),
    plots,
    h("div", { class: "card-foot" }, summary),
  );

  const charts = { total: null, pace: null };
  const observer = new ResizeObserver(() => {
    for (const [name, box] of [["total", total], ["pace", pace]]) charts[name]?.setSize(sizeOf(box));
  });
  observer.observe(plots);
  let isClosed = false;
  onChange(() => rebuild());

  function shownRange() {
    if (zoom) return zoom;
    const end = Math.max(history.last, live.connection === "live" ? now() : 0);
    const first = history.columns.at[0] ?? end;
    const begin = span === Infinity ? first : Math.max(end - span, Math.min(first, end - SHORTEST));
    return [Math.min(begin, end - SHORTEST), end];
  }

  function rebuild() {
    if (isClosed) return;
    for (const name of ["total", "pace"]) charts[name]?.destroy();
    charts.total = null;
    charts.pace = null;
    draw();
  }

  function draw() {
    if (isClosed || !total.clientWidth || document.hidden) return;
    const [from, to] = shownRange();
    const kind = WHAT[what];
    charts.total ??= new uPlot(options(total, "total"), [[0], [0]], total);
    charts.pace ??= new uPlot(options(pace, "pace"), [[0], [0]], pace);
    charts.total.setData(steps(from, to), false);
    charts.pace.setData(bars(from, to), false);
    for (const chart of [charts.total, charts.pace]) chart.setScale("x", { min: from, max: to });
    const gained = history.value(what, to) - history.value(what, from);
    const minutes = (to - from) / 60;
    say(element.querySelector("#total-name"), kind.name);
    say(element.querySelector("#pace-name"), `${kind.name} a minute`);
    say(summary, history.columns.at.length < 2
      ? "Nothing has been kept yet; the plot begins with the first commit."
      : `${format.moment(from)} – ${format.moment(to)}: ${kind.total(gained)} more, ${what === "bytes" ? format.bytes(gained / minutes) : format.rate(gained / minutes)} a minute on average.`);
    kinds.update();
    windows.update();
  }

  function steps(from, to) {
    const { at } = history.columns;
    const values = history.columns[what];
    const times = [from];
    const heights = [history.value(what, from)];
    for (let i = 0; i < at.length; i += 1) {
      if (at[i] <= from || at[i] >= to) continue;
      times.push(at[i]);
      heights.push(values[i]);
    }
    times.push(to);
    heights.push(history.value(what, to));
    return [times, heights];
  }

  // Bars stand on whole multiples of their width, so that they keep their shape while time goes on.
  function bars(from, to) {
    const width = niceSeconds((to - from) / BARS);
    const times = [];
    const rates = [];
    for (let at = Math.floor(from / width) * width; at < to; at += width) {
      const end = Math.min(at + width, history.last);
      const gained = end > at ? history.value(what, end) - history.value(what, at) : 0;
      times.push(at + width / 2);
      rates.push((gained * 60) / width);
    }
    return [times, rates];
  }

  function options(box, name) {
    const ink = colour("muted");
    const line = colour("line");
    const mark = colour("appended");
    const isTotal = name === "total";
    const axis = { stroke: ink, font: "12px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false } };
    return {
      ...sizeOf(box),
      legend: { show: false },
      padding: [8, 12, isTotal ? 8 : 0, 0],
      cursor: { sync: { key: SYNC }, y: false, drag: { setScale: false, x: true, y: false }, points: { show: isTotal } },
      scales: { x: { time: true, auto: false }, y: { range: (_, __, high) => [0, Math.max(high * 1.08, isTotal ? 1 : 0.5)] } },
      series: [
        {},
        isTotal
          ? { stroke: mark, width: 2, fill: colour("appended-soft"), paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }
          : { stroke: mark, width: 0, fill: mark, paths: uPlot.paths.bars({ size: [0.8, 40], align: 0 }), points: { show: false } },
      ],
      axes: [
        { ...axis, show: !isTotal, size: 30, space: 70, values: timeLabels },
        { ...axis, size: 58, space: isTotal ? 36 : 26, values: (_, ticks) => ticks.map((tick) => WHAT[what].format(tick)) },
      ],
      hooks: { setSelect: [onSelect], setCursor: [isTotal ? onCursor : () => {}] },
    };
  }

  function onSelect(chart) {
    const { left, width } = chart.select;
    if (width < 4) return;
    zoomTo(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"));
    chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  function onCursor(chart) {
    const { left } = chart.cursor;
    const name = element.querySelector("#total-name");
    if (left === undefined || left === null || left < 0) say(name, WHAT[what].name);
    else {
      const at = chart.posToVal(left, "x");
      say(name, `${WHAT[what].name} at ${format.moment(at)}: ${what === "bytes" ? format.bytes(history.value(what, at)) : format.whole(history.value(what, at))}`);
    }
  }

  function zoomTo(from, to) {
    const middle = (from + to) / 2;
    const half = Math.max(to - from, SHORTEST) / 2;
    zoom = [middle - half, middle + half];
    draw();
  }

  function onKey(event) {
    const [from, to] = shownRange();
    const width = to - from;
    const moves = {
      ArrowLeft: [from - width / 5, to - width / 5],
      ArrowRight: [from + width / 5, to + width / 5],
      "+": [from + width / 4, to - width / 4],
      "=": [from + width / 4, to - width / 4],
      "-": [from - width / 2, to + width / 2],
    };
    if (event.key === "0" || event.key === "Escape") zoom = null;
    else if (event.key in moves) zoomTo(...moves[event.key]);
    else return;
    event.preventDefault();
    draw();
  }

  total.addEventListener("dblclick", reset);
  pace.addEventListener("dblclick", reset);
  function reset() {
    zoom = null;
    draw();
  }

  let known = null; // the daemon's life that the history belongs to
  return {
    element,
    tick: draw,
    async update(state, { caughtUp }) {
      const isNew = known === null || caughtUp;
      known = state.daemon.alive_since;
      if (isNew || history.columns.at.length > MOST) await history.load().catch(() => { known = null; });
      history.add(state.at, state.dataset.records, state.dataset.rollouts, state.dataset.bytes);
      draw();
    },
    close() {
      isClosed = true;
      observer.disconnect();
      for (const chart of Object.values(charts)) chart?.destroy();
    },
  };
}

function sizeOf(box) {
  return { width: Math.max(120, box.clientWidth), height: Math.max(60, box.clientHeight) };
}

function niceSeconds(seconds) {
  return [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400, 604_800].find((nice) => nice >= seconds) ?? 2_592_000;
}

function timeLabels(chart, ticks) {
  const wide = chart.scales.x.max - chart.scales.x.min;
  const how = wide > 172_800 ? { day: "numeric", month: "short" } : wide > 600 ? { hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const write = new Intl.DateTimeFormat("en-GB", how);
  return ticks.map((tick) => write.format(new Date(tick * 1000)));
}

function choices(label, options, chosen, choose) {
  const buttons = options.map(([name, value]) => [value, h("button", { type: "button", "aria-pressed": "false", onclick: () => choose(value) }, name)]);
  const element = h("div", { class: "choices", role: "group", "aria-label": label }, buttons.map(([, button]) => button));
  return { element, update: () => buttons.forEach(([value, button]) => set(button, "aria-pressed", chosen() === value)) };
}
