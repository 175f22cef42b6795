// Examples of one state: the newest lines that are in it, each with its reason in words.

import { get } from "./api.js";
import { fill, h, say, set } from "./dom.js";
import * as format from "./format.js";
import { now } from "./live.js";
import { toLine, toOverview, toRollout, toState } from "./routes.js";
import * as text from "./text.js";
import { STATES, becauseOf, reasonName, stateNames } from "./words.js";

const PAUSE = 2_000; // milliseconds between two questions, at least

/** Show examples of `state` in `main`. */
export function states(main, [state]) {
  const tabs = new Map();
  const nav = h(
    "nav",
    { class: "tabs", "aria-label": "States of lines" },
    h("ul", {}, Object.keys(STATES).map((name) => {
      const count = h("span", { class: "count" });
      const link = h("a", { href: toState(name), class: `state-${name}`, "aria-current": name === state ? "page" : false }, h("span", { class: "swatch", "aria-hidden": "true" }), `${stateNames(name)} `, count);
      tabs.set(name, count);
      return h("li", {}, link);
    })),
  );
  const told = h("p", { class: "lead" });
  const reasons = h("div", { class: "choices", role: "group", "aria-label": "Only this reason" });
  const body = h("ol", { class: "examples" });
  const note = h("p", { class: "empty" });
  const renew = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => ask() }, "Show the newest");
  fill(
    main,
    h("p", { class: "crumbs" }, h("a", { href: toOverview() }, "Overview"), " / lines"),
    h("h1", { tabindex: -1 }, `Lines: ${stateNames(state)}`),
    nav,
    h("section", { class: "card", "aria-label": "Examples" }, told, reasons, renew, body, note),
  );
  let reason = null;
  let known = "";
  let counted = -1;
  let askedAt = 0;
  let isClosed = false;

  async function ask() {
    askedAt = Date.now();
    renew.hidden = true;
    try {
      const answer = await get("/api/examples", { state, reason });
      if (isClosed) return;
      fill(body, answer.examples.map(example));
      note.hidden = answer.complete && answer.examples.length > 0;
      say(note, answer.examples.length ? `The newest ${answer.examples.length}; there are more.` : "No line is in this state now.");
    } catch (error) {
      if (isClosed) return;
      note.hidden = false;
      say(note, error.message);
    }
  }

  function showReasons(found) {
    const named = Object.entries(found).filter(([name, lines]) => name && lines);
    const present = JSON.stringify(named);
    if (known === present) return;
    known = present;
    const choice = (name, label) => h("button", { type: "button", "aria-pressed": String(reason === name), onclick: (event) => {
      reason = name;
      for (const button of reasons.children) set(button, "aria-pressed", button === event.currentTarget);
      ask();
    } }, label);
    const focused = [...reasons.children].indexOf(document.activeElement);
    fill(reasons, named.length > 1 ? [choice(null, "all"), ...named.map(([name, lines]) => choice(name, `${reasonName(name)} ${format.whole(lines)}`))] : []);
    reasons.children[focused]?.focus();
  }

  return {
    title: `Lines: ${stateNames(state)}`,
    update({ flow }) {
      for (const one of flow.states) if (tabs.has(one.state)) say(tabs.get(one.state), format.whole(one.lines));
      const mine = flow.states.find((one) => one.state === state);
      if (!mine) {
        say(note, "There is no such state.");
        return;
      }
      say(told, `${format.counted(mine.lines, "line")} of ${format.whole(flow.read)} read: ${STATES[state].says}.`);
      showReasons(mine.reasons);
      if (counted === mine.lines) return;
      const first = counted === -1;
      counted = mine.lines;
      // What a person reads does not move away beneath the eyes, or the focus.
      if (first || (!body.children.length && Date.now() - askedAt > PAUSE)) ask();
      else renew.hidden = false;
    },
    close() {
      isClosed = true;
    },
  };
}

function example(found) {
  const lines = found.lines === 1 ? `line ${format.whole(found.first_line)}` : `lines ${format.whole(found.first_line)}–${format.whole(found.first_line + found.lines - 1)}`;
  return h(
    "li",
    { class: `example state-${found.state}` },
    h("div", { class: "example-head" }, found.session ? h("a", { class: "mono", href: toRollout(found.session) }, text.plain(found.session, 160)) : h("a", { class: "mono", href: toRollout(found.shard) }, text.plain(found.shard, 160)), found.since ? h("span", { class: "note" }, format.age(Math.max(0, now() - found.since))) : null),
    h("p", { class: "because" }, text.nodes(becauseOf(found).slice(0, 2_000))),
    h("p", { class: "note" }, `${text.plain(found.shard, 200)}, ${lines}. `, h("a", { href: toLine(found.shard_id, found.first_line) }, found.lines === 1 ? "Show the line" : "Show the first line")),
  );
}
