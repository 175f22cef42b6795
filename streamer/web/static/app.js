// The frame of the page: which view is shown, how the daemon is, and what is said when that changes.

import { fill, h, say, set } from "./dom.js";
import * as format from "./format.js";
import { live, now, pause, start, subscribe } from "./live.js";
import { overview } from "./overview.js";
import { line, record } from "./record.js";
import { rollout } from "./rollout.js";
import { adoptPath, parts, toSearch } from "./routes.js";
import { search } from "./search.js";
import { states } from "./states.js";
import * as text from "./text.js";
import * as theme from "./theme.js";

const VIEWS = { "": overview, rollouts: rollout, records: record, lines: line, states, search };
const REDRAW = 1_000; // milliseconds between two redraws, at least
const IDLE = 300; // seconds without a new line

const byId = (id) => document.getElementById(id);
const [main, pill, pillText, announcer, notices, name, menu] = ["main", "pill", "pill-text", "announcer", "notices", "dataset-name", "datasets"].map(byId);

let view = null;
let wasLive = false;
let caughtUp = true; // whether points of the history may be missing since the last redraw
let drawnAt = 0;
let timer = 0;
let moved = { read: -1, at: 0 };

function route() {
  const [room, ...rest] = parts();
  view?.close();
  view = (VIEWS[room] ?? overview)(main, rest);
  caughtUp = true;
  scrollTo(0, 0);
  draw();
}

function navigate() {
  route();
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function changed() {
  if (live.connection === "live" && !wasLive) caughtUp = true;
  wasLive = live.connection === "live";
  showConnection();
  const wait = drawnAt + REDRAW - Date.now();
  clearTimeout(timer);
  timer = setTimeout(draw, Math.max(0, wait));
}

function draw() {
  drawnAt = Date.now();
  const { state } = live;
  if (!state || !view) return;
  if (state.flow.read !== moved.read) moved = { read: state.flow.read, at: state.dataset.last_append_at ?? state.daemon.alive_since };
  say(name, text.plain(state.dataset.name, 80));
  set(name, "title", text.plain(state.dataset.path, 300));
  showMenu(state.datasets);
  view.update(state, { caughtUp });
  caughtUp = false;
  const title = view.title || `${format.counted(state.dataset.records, "record")}`;
  if (document.title !== `${title} · streamer`) document.title = `${title} · streamer`;
  showConnection();
}

/** Link to the other datasets of the daemon, if there are any; they are the same for as long as it lives. */
function showMenu(datasets) {
  const told = datasets.map((one) => `${one.address} ${one.here}`).join("\n");
  if (menu.dataset.told === told) return;
  menu.dataset.told = told;
  menu.hidden = !datasets.length;
  name.hidden = !menu.hidden;
  fill(menu, datasets.map((one) => h("a", { href: `${one.address}/`, title: text.plain(one.path, 300), "aria-current": one.here ? "page" : null }, text.plain(one.name, 80))));
}

/** Say how the daemon is: in the pill always, in a notice if it matters, aloud only when it became another. */
function showConnection() {
  const [kind, words, more] = standing();
  set(pill, "data-kind", kind);
  say(pillText, words);
  const found = more ? [[kind, more]] : [];
  if (live.connection === "live") {
    for (const trouble of live.state.troubles) {
      found.push(["trouble", [h("strong", {}, `Cannot ${text.plain(trouble.op, 100)}: `), text.plain(`${trouble.where}: ${trouble.cause}`, 600), trouble.hint ? ` (${text.plain(trouble.hint, 400)})` : ""]]);
    }
  }
  const told = found.map(([, nodes]) => [nodes].flat().map((node) => node.textContent ?? node).join("")).join("\n");
  if (notices.dataset.told !== told) {
    notices.dataset.told = told;
    notices.hidden = !found.length;
    fill(notices, found.map(([sort, nodes]) => h("div", { class: "notice", "data-kind": sort }, h("p", {}, nodes))));
  }
  const aloud = kind === "live" ? "Connected to the daemon." : kind === "connecting" ? "" : `${words}. ${told}`;
  if (announcer.dataset.kind !== kind) {
    announcer.dataset.kind = kind;
    say(announcer, aloud);
  }
}

function standing() {
  const at = format.moment(live.since / 1000);
  switch (live.connection) {
    case "live":
      if (live.state.troubles.length) return ["trouble", "Trouble", null];
      if (!live.state.flow.read) return ["live", live.state.fleet?.writer ? "Waiting for records" : "Waiting for shards", null];
      return ["live", now() - moved.at > IDLE && !live.state.rate.lines ? "Alive, nothing new" : "Live", null];
    case "stopped":
      return ["stopped", "Daemon stopped", `The daemon was stopped at ${at}. What is shown is how it was then; the page goes on by itself when the daemon is started again.`];
    case "lost":
      return ["lost", "Reconnecting", `The connection to the daemon was lost at ${at}; it is tried again by itself. What is shown is how it was then.`];
    case "paused":
      return ["paused", "Paused", null];
    case "refused":
      return ["trouble", "No access", "The daemon wants its token: open the address with the token once, as README says."];
    default:
      return ["connecting", "Connecting", null];
  }
}

function install() {
  theme.install(byId("scheme"));
  byId("pause").addEventListener("click", (event) => {
    const isPaused = event.currentTarget.getAttribute("aria-pressed") !== "true";
    set(event.currentTarget, "aria-pressed", isPaused);
    pause(isPaused);
  });
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = byId("query").value.trim();
    if (wanted) location.hash = toSearch(wanted);
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("hashchange", navigate);
  setInterval(() => live.connection === "live" && showConnection(), 10_000);
}

adoptPath();
install();
subscribe(changed);
route();
start();
