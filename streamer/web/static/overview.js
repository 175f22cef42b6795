// The first view: everything that one glance should say.

import { fill, h, say } from "./dom.js";
import { distributions } from "./distribution.js";
import { fleet } from "./fleet.js";
import { flow } from "./flow.js";
import { glance } from "./glance.js";
import { growth } from "./growth.js";
import { live } from "./live.js";
import { newest } from "./newest.js";
import * as text from "./text.js";
import { timing } from "./timing.js";

const SLOWLY = 5; // seconds between two redraws of the plot while nothing comes

/** Show the overview in `main`. */
export function overview(main) {
  const sections = { glance: glance(), growth: growth(), flow: flow(), distributions: distributions(), timing: timing(), fleet: fleet(), newest: newest() };
  const sources = h("p", { class: "sources note" });
  const { glance: first, growth: grown, flow: flows, distributions: shapes, timing: times, fleet: ends, newest: records } = sections;
  fill(
    main,
    h("h1", { class: "hidden", tabindex: -1 }, "Overview"),
    h("div", { class: "grid" }, first.element, grown.element, flows.element, shapes.element, times.element, ends.element, records.element),
    sources,
  );
  let seconds = 0;
  const clock = setInterval(() => {
    if (document.hidden || live.connection !== "live") return;
    first.tick();
    times.tick();
    ends.tick();
    seconds += 1;
    if (seconds % SLOWLY === 0) grown.tick();
  }, 1_000);
  return {
    title: "",
    update(state, how) {
      for (const section of Object.values(sections)) section.update(state, how);
      say(sources, told(state));
    },
    close() {
      clearInterval(clock);
      for (const section of Object.values(sections)) section.close?.();
    },
  };
}

function told(state) {
  const { sources, trace_database: database, dataset, daemon, fleet: end } = state;
  const where = `appends to ${text.plain(dataset.path, 300)}. streamer ${daemon.version}, process ${daemon.pid} on ${text.plain(daemon.host, 80)}.`;
  if (end?.writer) return `Takes the records of the fleet's dataset ${text.plain(end.dataset, 100)}; ${where}`;
  const read = [sources.shard_folder, `${sources.database || database.place} (outcomes${sources.conversations === "shards" ? "" : " and conversations"})`].filter(Boolean);
  return `Reads ${read.map((place) => text.plain(place, 300)).join(" and ")}; ${where}`;
}
