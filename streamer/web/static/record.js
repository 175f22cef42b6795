// One record, by its place in the dataset; or one line, by its place in a shard.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { recordCard } from "./newest.js";
import { toOverview } from "./routes.js";

/** Show the record at a byte of the dataset in `main`. */
export const record = (main, [offset]) => show(main, "Record", `at byte ${offset}`, `/api/records/${encodeURIComponent(offset)}`);

/** Show a line of a shard in `main`. */
export const line = (main, [shard, number]) => show(main, "Line of a shard", `line ${number}`, `/api/lines/${encodeURIComponent(shard)}/${encodeURIComponent(number)}`);

function show(main, kind, place, source) {
  const box = h("section", { class: "card", "aria-label": kind }, h("p", { class: "empty" }, "Loading…"));
  fill(main, h("p", { class: "crumbs" }, h("a", { href: toOverview() }, "Overview"), ` / ${kind.toLowerCase()}`), h("h1", { tabindex: -1 }, `${kind} ${place}`), box);
  get(source).then(
    (found) => fill(box, recordCard(found, { heading: "h2", link: false })),
    (error) => fill(box, h("p", { class: "empty" }, error.message)),
  );
  return { title: `${kind} ${place}`, update() {}, close() {} };
}
