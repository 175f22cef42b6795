// How late the dataset is: from outcome to dataset, what was not read yet, and which rollouts still wait.

import { h, reconcile, say } from "./dom.js";
import * as format from "./format.js";
import { now } from "./live.js";
import { toRollout } from "./routes.js";
import * as text from "./text.js";

/** Return the timing section: `element`, `update(state)` and `tick()`, which lets ages go on. */
export function timing() {
  const median = h("dd", {});
  const slowest = h("dd", {});
  const lag = h("dd", {});
  const of = h("p", { class: "note" });
  const heading = h("h3", {}, "Waiting for their outcome");
  const body = h("tbody", {});
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Waiting rollouts" }, h("table", { class: "waiting" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Rollout"), h("th", { scope: "col" }, "Lines"), h("th", { scope: "col" }, "Waits for"))), body));
  const none = h("p", { class: "empty small" }, "None: every line that was read has its outcome.");
  const element = h(
    "section",
    { class: "card timing", "aria-labelledby": "timing-title" },
    h("div", { class: "card-head" }, h("h2", { id: "timing-title" }, "How late")),
    h("dl", { class: "facts" }, fact("Outcome to dataset, median", median), fact("99 of 100 within", slowest), fact("Not read yet", lag)),
    of,
    heading,
    table,
    none,
  );

  function tick() {
    for (const cell of body.querySelectorAll("[data-since]")) say(cell, waits(Number(cell.dataset.since)));
  }

  return {
    element,
    tick,
    update(state) {
      const { latency, waiting } = state;
      say(median, latency ? format.duration(latency.median) : format.NONE);
      say(slowest, latency ? format.duration(latency.p99) : format.NONE);
      say(lag, state.lag ? (state.lag.bytes ? `${format.bytes(state.lag.bytes)} in ${format.counted(state.lag.shards, "shard")}` : "nothing") : format.NONE);
      say(of, latency ? `Of the newest ${format.counted(latency.count, "outcome")} that qualified since the daemon began.` : "Measured as soon as a rollout qualifies.");
      const shown = waiting.oldest;
      say(heading, `Waiting for their outcome: ${format.counted(waiting.rollouts, "rollout")}${waiting.rollouts > shown.length ? `, the oldest ${shown.length}` : ""}`);
      table.hidden = !shown.length;
      none.hidden = shown.length > 0;
      reconcile(body, shown, (rollout) => rollout.session, row, (kept, rollout) => say(kept.children[1], format.whole(rollout.lines)));
      tick();
    },
  };
}

function row(rollout) {
  return h("tr", {}, h("th", { scope: "row" }, h("a", { href: toRollout(rollout.session) }, text.plain(rollout.session, 120))), h("td", {}, format.whole(rollout.lines)), h("td", { "data-since": rollout.since }, waits(rollout.since)));
}

const waits = (since) => format.wait(now() - since);

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), value);
}
