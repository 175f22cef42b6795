// The flow as a picture: from the lines read, one band to each of the six states, as wide as its share. The names and
// counts beside it are links, so that a click, or Enter, lists examples; the picture itself says nothing more.

import { h, say, set, svg } from "./dom.js";
import * as format from "./format.js";
import { toState } from "./routes.js";
import { STATES, reasonName, stateNames } from "./words.js";

const HEIGHT = 300;
const WIDTH = 200;
const THINNEST = 2;

/** Return the flow section: `element` and `update(state)`. */
export function flow() {
  const bands = new Map();
  const rows = new Map();
  const picture = svg("svg", { class: "bands", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
  const list = h("ul", { class: "fates" });
  for (const state of Object.keys(STATES)) {
    const band = svg("path", { class: `band state-${state}` });
    bands.set(state, band);
    picture.append(band);
    const row = { count: h("span", { class: "count" }), share: h("span", { class: "share" }), why: h("span", { class: "why" }), link: null };
    row.link = h("a", { class: `fate state-${state}`, href: toState(state) }, h("span", { class: "fate-name" }, h("span", { class: "swatch", "aria-hidden": "true" }), stateNames(state)), row.count, row.share, row.why);
    rows.set(state, row);
    list.append(h("li", {}, row.link));
  }
  const read = h("strong", { class: "count" });
  const sum = h("p", { class: "note", id: "flow-sum" });
  const element = h(
    "section",
    { class: "card flow", "aria-labelledby": "flow-title" },
    h("div", { class: "card-head" }, h("h2", { id: "flow-title" }, "What becomes of the lines"), h("span", { class: "note" }, "choose one for examples")),
    h("div", { class: "flow-picture" }, h("div", { class: "source" }, read, h("span", {}, "lines read")), picture, list),
    h("div", { class: "card-foot" }, sum),
  );

  function update(state) {
    const { read: total, states } = state.flow;
    say(read, format.whole(total));
    set(read.parentElement, "data-empty", total === 0);
    draw(states, total);
    for (const { state: name, lines, reasons } of states) {
      const row = rows.get(name);
      if (!row) continue;
      say(row.count, format.whole(lines));
      say(row.share, total ? share(lines, total) : "");
      say(row.why, why(reasons));
      set(row.link, "data-empty", lines === 0);
    }
    const added = states.reduce((before, { lines }) => before + lines, 0);
    const terms = states.map(({ lines }) => format.whole(lines)).join(" + ");
    set(sum, "data-adds-up", added === total);
    say(sum, added === total ? `${terms} = ${format.whole(total)}: every line is accounted for.` : `These counts do not add up: ${terms} = ${format.whole(added)}, but ${format.whole(total)} lines were read. Please report this.`);
  }

  // On the left the bands lie upon each other, on the right each ends at the middle of its row.
  function draw(states, total) {
    const room = HEIGHT / states.length;
    const widths = states.map(({ lines }) => (total && lines ? Math.max(THINNEST, (lines / total) * HEIGHT) : 0));
    const scale = HEIGHT / Math.max(HEIGHT, widths.reduce((a, b) => a + b, 0));
    let top = 0;
    states.forEach(({ state }, i) => {
      const left = widths[i] * scale;
      const right = Math.min(left, room - 10);
      const begin = room * (i + 0.5) - right / 2;
      const half = WIDTH / 2;
      set(bands.get(state), "d", left ? `M0 ${top} C${half} ${top} ${half} ${begin} ${WIDTH} ${begin} V${begin + right} C${half} ${begin + right} ${half} ${top + left} 0 ${top + left} Z` : "");
      top += left;
    });
  }

  return { element, update };
}

function share(lines, total) {
  if (!lines) return "";
  const percent = (lines / total) * 100;
  return percent < 0.1 ? "< 0.1 %" : `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

function why(reasons) {
  const named = Object.entries(reasons).filter(([reason, lines]) => reason && lines);
  if (!named.length) return "";
  const [first, ...rest] = named.sort((a, b) => b[1] - a[1]).map(([reason, lines]) => `${format.whole(lines)} ${reasonName(reason)}`);
  return rest.length > 1 ? `${first}, and ${rest.length} other reasons` : [first, ...rest].join(", ");
}
