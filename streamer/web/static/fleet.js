// An end of a fleet: what of a collector's records writers hold, or of which collectors a writer has heard. Names of
// hosts come from other machines: they are text, and cut.

import { fill, h, reconcile, say } from "./dom.js";
import * as format from "./format.js";
import { now } from "./live.js";
import * as text from "./text.js";
import { reasonName } from "./words.js";

const LONGEST = 100;

/** Return the fleet section: `element`, `update(state)` and `tick()`, which lets ages go on. Elsewhere it is hidden. */
export function fleet() {
  const who = h("span", { class: "note" });
  const lead = h("p", { class: "lead" });
  const facts = h("dl", { class: "facts" });
  const heading = h("h3", {});
  const body = h("tbody", {});
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "fleet-hosts" }, h("table", { class: "hosts" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Collector"), h("th", { scope: "col" }, "Records"), h("th", { scope: "col" }, "Last one"))), body));
  const rest = h("p", { class: "note" });
  const foot = h("span", {});
  const hosts = h("div", {}, heading, table, rest);
  heading.id = "fleet-hosts";
  const element = h(
    "section",
    { class: "card fleet", "aria-labelledby": "fleet-title", hidden: true },
    h("div", { class: "card-head" }, h("h2", { id: "fleet-title" }, "Fleet"), who),
    h("div", { class: "fleet-parts" }, h("div", {}, lead, facts), hosts),
    h("p", { class: "card-foot note" }, foot, h("code", {}, "streamer fleet status"), " asks the servers."),
  );
  const values = new Map();
  let silentAfter = Infinity;

  function show(rows) {
    const names = rows.map(([name]) => name);
    if (names.join() !== [...values.keys()].join()) {
      values.clear();
      for (const name of names) values.set(name, h("dd", {}));
      fill(facts, names.map((name) => h("div", {}, h("dt", {}, name), values.get(name))));
    }
    for (const [name, value] of rows) say(values.get(name), value);
  }

  function tick() {
    for (const cell of body.querySelectorAll("[data-seen]")) {
      const age = Math.max(0, now() - Number(cell.dataset.seen));
      say(cell, age > silentAfter ? `silent for ${format.wait(age)}` : format.age(age));
      cell.classList.toggle("late", age > silentAfter);
    }
  }

  return {
    element,
    tick,
    update({ fleet: seen }) {
      element.hidden = !seen;
      if (!seen) return;
      const { collector, writer } = seen;
      const link = seen.trouble ? `cannot ${text.plain(seen.trouble, LONGEST)}` : "no trouble";
      const origin = collector ? collector.origin : writer.name;
      say(who, `${collector ? "collector" : "writer"}${origin ? ` ${text.plain(origin, LONGEST)}` : ""} of ${text.plain(seen.dataset, LONGEST)}`);
      hosts.hidden = !writer;
      if (collector) {
        say(lead, delivered(collector));
        show([...ofCollector(collector), ["Link", link]]);
        say(foot, "As the ledger of this daemon says. Records wait in its dataset until a writer has said that it holds them; ");
        return;
      }
      silentAfter = seen.silent_after;
      say(lead, writer.owned ? `Writes ${format.counted(writer.owned, "bucket")}: ${text.plain(writer.buckets, 60)}.` : "Has no bucket yet.");
      show([
        ["Collectors heard of", format.whole(writer.known)],
        [`Silent for more than ${format.duration(silentAfter)}`, format.whole(writer.silent)],
        ["Records that came again", format.whole(writer.again)],
        ["Link", link],
      ]);
      say(heading, writer.known > writer.hosts.length ? `Collectors, the ${format.whole(writer.hosts.length)} heard of last` : "Collectors");
      table.hidden = !writer.hosts.length;
      reconcile(body, writer.hosts, (host) => host.origin, row, (kept, host) => {
        say(kept.children[1], format.whole(host.records));
        kept.children[2].dataset.seen = host.seen;
      });
      const more = writer.known - writer.hosts.length;
      rest.hidden = writer.hosts.length > 0 && more <= 0;
      say(rest, writer.hosts.length ? `And ${format.whole(more)} more, heard of longer ago.` : "Nothing has come of any collector yet.");
      say(foot, "As the ledger of this daemon says: a collector that has nothing to send is silent, too; ");
      tick();
    },
  };
}

function delivered({ lines, delivered: held, waiting }) {
  if (!lines) return "There is nothing to deliver yet.";
  const rest = waiting ? `; ${format.counted(waiting, "record")} ${waiting === 1 ? "waits" : "wait"}` : "";
  return `Writers hold ${format.whole(held)} of ${format.counted(lines, "record")}${rest}.`;
}

function ofCollector(seen) {
  const { undeliverable, missing, behind, waiting, sent, again } = seen;
  const aside = Object.entries(undeliverable);
  const rows = [
    ["Delivered", format.whole(seen.delivered)],
    ["Waiting, sent or to be sent", waiting ? `${format.whole(waiting)}, in the last ${format.bytes(behind)}` : "none"],
    ["Undeliverable", aside.length ? aside.map(([reason, lines]) => `${format.whole(lines)} ${text.plain(reasonName(reason), 60)}`).join(", ") : "none"],
    ["Messages that the stream took", again ? `${format.whole(sent)}, and ${format.whole(again)} of lines that were lost` : format.whole(sent)],
  ];
  return missing ? [...rows, ["Missing, removed by hand", format.whole(missing)]] : rows;
}

function row(host) {
  return h("tr", {}, h("th", { scope: "row", class: "mono" }, text.plain(host.origin, LONGEST)), h("td", {}, format.whole(host.records)), h("td", { "data-seen": host.seen }));
}
