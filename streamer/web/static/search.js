// What begins with a text: run ids, and shards with lines that have none. One alone is shown at once.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { toOverview, toRollout } from "./routes.js";
import * as text from "./text.js";
import { STATES, stateName } from "./words.js";

/** Show what was found in `main`. */
export function search(main, [wanted]) {
  const box = h("section", { class: "card", "aria-label": "Found" }, h("p", { class: "empty" }, "Looking…"));
  fill(main, h("p", { class: "crumbs" }, h("a", { href: toOverview() }, "Overview"), " / search"), h("h1", { tabindex: -1 }, `Rollouts that begin with “${text.plain(wanted, 120)}”`), box);
  let isClosed = false;
  get("/api/rollouts", { prefix: wanted }).then(
    ({ sessions, shards = [], more }) => {
      if (isClosed) return;
      const all = [...sessions, ...shards.map(({ shard, ...rest }) => ({ session: shard, ...rest }))];
      // None or one: the page of a rollout knows more, and shards too.
      if (all.length < 2) location.replace(toRollout(all[0]?.session ?? wanted));
      else fill(box, h("ol", { class: "examples" }, all.map(found)), more ? h("p", { class: "note" }, "There are more; type more of the id.") : null);
    },
    (error) => !isClosed && fill(box, h("p", { class: "empty" }, error.message)),
  );
  return { title: "Search", update() {}, close() { isClosed = true; } };
}

function found({ session, lines, states }) {
  const badges = Object.keys(STATES).filter((state) => states[state]).map((state) => h("span", { class: `badge state state-${state}` }, `${format.whole(states[state])} ${stateName(state)}`));
  return h("li", { class: "example" }, h("div", { class: "example-head" }, h("a", { class: "mono", href: toRollout(session) }, text.plain(session, 200)), h("span", { class: "note" }, lines ? format.counted(lines, "line") : "an outcome, no line")), h("p", { class: "badges" }, badges));
}
