// The numbers that one glance should give: how much there is, how fast it grows, how fresh it is.

import { h, say, set } from "./dom.js";
import * as format from "./format.js";
import { now } from "./live.js";

/** Return the strip of numbers: `element`, `update(state)` and `tick()`. */
export function glance() {
  const tiles = Object.fromEntries(["records", "rollouts", "bytes", "rate", "taken", "fresh"].map((name) => [name, tile()]));
  const element = h("section", { class: "card glance", "aria-label": "At a glance" }, h("dl", {}, Object.values(tiles).map(({ element: one }) => one)));
  let last = null;

  function tick() {
    put(tiles.fresh, "Newest record", last === null ? format.NONE : format.age(Math.max(0, now() - last)), last === null ? "none yet" : format.moment(last));
  }

  return {
    element,
    tick,
    update(state) {
      const { dataset, rate, flow, sources } = state;
      last = dataset.last_append_at;
      const appended = flow.states.find(({ state: name }) => name === "appended")?.lines ?? 0;
      const perMinute = (count) => (rate.seconds ? (count * 60) / rate.seconds : 0);
      put(tiles.records, "Records", format.whole(dataset.records), dataset.records && dataset.rollouts ? `${format.mean(dataset.records / dataset.rollouts)} a rollout` : "in the dataset");
      put(tiles.rollouts, "Rollouts", format.whole(dataset.rollouts), `of ${places(sources)}`);
      put(tiles.bytes, "Size", format.bytes(dataset.bytes), dataset.records ? `${format.bytes(dataset.bytes / dataset.records)} a record` : "");
      put(tiles.rate, "Records a minute", format.rate(perMinute(rate.records)), `${format.rate(perMinute(rate.lines))} lines read a minute`);
      put(tiles.taken, "Lines taken", flow.read ? `${Math.round((appended / flow.read) * 100)} %` : format.NONE, `${format.whole(appended)} of ${format.whole(flow.read)}`);
      tick();
    },
  };
}

function tile() {
  const name = h("dt", {});
  const value = h("dd", { class: "number" });
  const more = h("dd", { class: "note" });
  return { element: h("div", { class: "tile" }, name, value, more), name, value, more };
}

function put(one, name, value, more) {
  say(one.name, name);
  say(one.value, value);
  say(one.more, more);
  set(one.value, "data-long", value.length > 9);
}

function places({ shards, sessions, streams }) {
  if (streams) return format.counted(streams, "bucket");
  return format.counted(shards + sessions, sessions ? "source" : "shard");
}
