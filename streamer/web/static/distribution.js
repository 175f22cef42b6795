// Distributions of rewards and achievements over rollouts, qualifying and not, by model, with the bar drawn in.

import { get } from "./api.js";
import { fill, h, say, svg } from "./dom.js";
import * as format from "./format.js";
import * as text from "./text.js";
import { columnName } from "./words.js";

const WIDTH = 320;
const HEIGHT = 140;
const FOOT = 18;
const HEAD = 18; // room for what the bar says
const PAUSE = 4_000; // milliseconds between two questions, at least
const MODELS = 12;
const COLUMNS = { reward: "total_reward", achievements: "achievements_count" };

/** Return the section of distributions: `element`, `update(state)` and `close()`. */
export function distributions() {
  const condition = h("code", { class: "condition" });
  const reward = h("div", { class: "histogram" });
  const achievements = h("div", { class: "histogram" });
  const models = h("div", { class: "models" });
  const element = h(
    "section",
    { class: "card distributions", "aria-labelledby": "distributions-title" },
    h(
      "div",
      { class: "card-head" },
      h("h2", { id: "distributions-title" }, "Rollouts by outcome"),
      h("span", { class: "legend" }, h("span", { class: "swatch state-appended", "aria-hidden": "true" }), "qualify", h("span", { class: "swatch hatched", "aria-hidden": "true" }), "below the bar"),
    ),
    h("p", { class: "bar-says" }, "The bar: ", condition),
    h("div", { class: "histograms" }, reward, achievements),
    models,
  );
  let chosen = ""; // a model, or all
  let seen = null;
  let asked = "";
  let timer = 0;
  let isAsking = false;
  let isClosed = false;

  function show() {
    say(condition, seen.where || "none");
    const one = seen.models.find((model) => key(model) === chosen);
    if (!one) chosen = "";
    const shown = one ?? seen;
    fill(reward, histogram("Reward", "reward", shown.reward.bins, seen.bars));
    fill(achievements, histogram("Achievements", "achievements", shown.achievements.bins, seen.bars));
    showModels();
  }

  function showModels() {
    if (seen.models.length < 2 && !seen.models.some(({ model }) => model)) return fill(models);
    const focused = models.contains(document.activeElement) ? document.activeElement.dataset.model : null;
    const rows = [{ model: "", rollouts: seen.rollouts, reward: seen.reward, all: true }, ...seen.models.slice(0, MODELS)].map(modelRow);
    const note = seen.models.length > MODELS ? `${format.counted(seen.models.length - MODELS, "more model")}. ` : "";
    fill(
      models,
      h("table", {}, h("caption", { class: "hidden" }, "Rollouts by model"), h("thead", {}, h("tr", {}, ["Model", "Rollouts", "Qualify"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)),
      h("p", { class: "note" }, `${note}Models of the newest ${format.whole(seen.models_cover)} outcomes${seen.models_unknown ? `; of ${format.whole(seen.models_unknown)} the model is not known` : ""}.`),
    );
    if (focused !== null) [...models.querySelectorAll("button")].find((button) => button.dataset.model === focused)?.focus();
    return models;
  }

  function modelRow(model) {
    const name = model.all ? "all models" : model.model === null ? "(not known)" : text.plain(model.model, 80);
    const id = model.all ? "" : key(model);
    const good = model.reward.bins.reduce((sum, bin) => sum + bin.qualifies, 0);
    const all = model.reward.bins.reduce((sum, bin) => sum + bin.qualifies + bin.below, 0);
    const percent = all ? Math.round((good / all) * 100) : 0;
    const meter = svg("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "meter-all", width: 100, height: 8 }), svg("rect", { class: "meter-good", width: percent, height: 8 }));
    const choose = h("button", { type: "button", class: "row-button", "data-model": id, "aria-pressed": String(chosen === id), onclick: () => { chosen = id; show(); } }, name);
    return h("tr", {}, h("th", { scope: "row" }, choose), h("td", {}, format.whole(model.rollouts)), h("td", { class: "meter-cell" }, meter, h("span", {}, all ? `${percent} %` : format.NONE)));
  }

  async function ask(wanted) {
    isAsking = true;
    try {
      seen = await get("/api/distributions");
      asked = wanted;
      if (!isClosed) show();
    } catch {
      // the next state asks again; what is wrong is told in the frame of the page
    } finally {
      isAsking = false;
    }
  }

  return {
    element,
    update(state) {
      const wanted = `${state.outcomes.rows} ${state.condition.where} ${state.flow.read}`;
      if (wanted === asked || isAsking || timer) return;
      timer = setTimeout(() => { timer = 0; }, PAUSE);
      ask(wanted);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

const key = ({ model }) => (model === null ? "?" : `=${model}`);

function histogram(title, what, bins, bars) {
  const id = `histogram-${what}`;
  if (!bins.length) return [h("h3", {}, title), h("p", { class: "empty small" }, "No outcome yet.")];
  const most = Math.max(1, ...bins.map((bin) => bin.qualifies + bin.below));
  const place = scale(bins);
  const columns = bins.map((bin) => column(bin, most, place));
  const lines = bars.filter((bar) => bar.column === COLUMNS[what]).map((bar) => barLine(bar, place));
  const labels = axis(bins, place);
  const total = bins.reduce((sum, bin) => sum + bin.qualifies + bin.below, 0);
  const drawn = bars.filter((bar) => bar.column === COLUMNS[what]).map((bar) => `${columnName(bar.column)} ${bar.op} ${bar.value}`).join(" and ");
  return [
    h("h3", { id }, title, h("span", { class: "note" }, ` up to ${format.counted(most, "rollout")} a column`)),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} of ${format.counted(total, "rollout")}${drawn ? `; the bar: ${drawn}` : ""}. The table that follows has the numbers.` },
      svg("defs", {}, svg("pattern", { id: `hatch-${what}`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { width: 5, height: 5, class: "hatch-ground" }), svg("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "hatch-line" }))),
      svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - FOOT, y2: HEIGHT - FOOT }),
      columns.map((make) => make(what)),
      lines,
      labels,
    ),
    table(title, bins),
  ];
}

/** Return where numbers lie: whole numbers that are single values get the room of a column each. */
function scale(bins) {
  const low = bins[0].low;
  const high = bins.at(-1).high;
  const single = bins.every((bin) => bin.low === bin.high);
  let gap = (high - low || 1) / Math.max(1, bins.length - 1);
  if (single) for (let i = 1; i < bins.length; i += 1) gap = Math.min(gap, bins[i].low - bins[i - 1].low);
  gap = Math.max(gap, (high - low || 1) / 60);
  const margin = single ? Math.max(gap / 2, (high - low) / 20, 0.5) : 0;
  const [from, to] = [low - margin, high + margin];
  const at = (value) => ((value - from) / (to - from || 1)) * WIDTH;
  return { at, gap: Math.min(44, (gap / (to - from || 1)) * WIDTH), single, step: gap };
}

function column(bin, most, place) {
  const room = HEIGHT - FOOT - HEAD;
  const tall = (count) => (count ? Math.max(2, (count / most) * room) : 0);
  const width = place.single ? Math.max(2, place.gap * 0.82) : Math.max(1, place.at(bin.high) - place.at(bin.low) - 1);
  const x = place.single ? place.at(bin.low) - width / 2 : place.at(bin.low) + 0.5;
  const [good, below] = [tall(bin.qualifies), tall(bin.below)];
  const base = HEIGHT - FOOT;
  return (what) => [
    good ? svg("rect", { class: "column-good", x, width, y: base - good, height: good }) : null,
    below ? svg("rect", { class: "column-below", fill: `url(#hatch-${what})`, x: x + 0.5, width: Math.max(1, width - 1), y: base - good - below, height: below }) : null,
  ];
}

function barLine(bar, place) {
  const shift = place.single ? ({ ">": 0.5, ">=": -0.5, "<": -0.5, "<=": 0.5 }[bar.op] ?? 0) * place.step : 0;
  const x = Math.min(WIDTH - 1, Math.max(1, place.at(bar.value + shift)));
  const isRight = x > WIDTH - 60;
  return [
    svg("line", { class: "bar-line", x1: x, x2: x, y1: 0, y2: HEIGHT - FOOT }),
    svg("text", { class: "bar-label", x: x + (isRight ? -5 : 5), y: 10, "text-anchor": isRight ? "end" : "start" }, `${bar.op} ${format.reward(bar.value)}`),
  ];
}

function axis(bins, place) {
  const values = place.single ? bins.map((bin) => bin.low) : [bins[0].low, (bins[0].low + bins.at(-1).high) / 2, bins.at(-1).high];
  let last = -Infinity;
  return values.map((value) => {
    const x = Math.min(WIDTH - 6, Math.max(6, place.at(value)));
    if (x - last < 34 && last !== -Infinity && x - last < 8 + 7 * format.short(value).length) return null;
    last = x;
    return svg("text", { class: "axis-label", x, y: HEIGHT - 4, "text-anchor": "middle" }, format.short(value));
  });
}

function table(title, bins) {
  const rows = bins.map((bin) => h("tr", {}, h("th", { scope: "row" }, bin.low === bin.high ? format.reward(bin.low) : `${format.reward(bin.low)} to ${format.reward(bin.high)}`), h("td", {}, format.whole(bin.qualifies)), h("td", {}, format.whole(bin.below))));
  return h("div", { class: "hidden" }, h("table", {}, h("caption", {}, title), h("thead", {}, h("tr", {}, [title, "Qualify", "Below the bar"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}
