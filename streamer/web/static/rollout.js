// One rollout: is it in the dataset, why, and what happened turn by turn.

import { get } from "./api.js";
import { fill, h, say } from "./dom.js";
import { replyGist } from "./conversation.js";
import * as format from "./format.js";
import { recordCard } from "./newest.js";
import { toOverview, toRecord } from "./routes.js";
import * as text from "./text.js";
import { STATES, becauseOf, otherRecord, stateName } from "./words.js";

/** Show what is known of a rollout (a session id, a shard, or SHARD:LINE) in `main`. */
export function rollout(main, [session]) {
  const box = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, "Looking it up…"));
  const renew = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => ask() }, "Something changed: look again");
  fill(
    main,
    h("p", { class: "crumbs" }, h("a", { href: toOverview() }, "Overview"), " / rollout"),
    h("div", { class: "title-row" }, h("h1", { tabindex: -1, class: "mono" }, text.plain(session, 300)), renew),
    box,
  );
  let shown = null;
  let isClosed = false;
  let isAsking = false;

  async function ask() {
    isAsking = true;
    try {
      const answer = await get("/api/rollouts", { session });
      if (isClosed) return;
      const told = JSON.stringify([answer.outcomes, answer.reasons, answer.turns, answer.events]);
      if (told !== shown) fill(box, ...page(answer));
      shown = told;
    } catch (error) {
      if (isClosed) return;
      shown = null;
      fill(box, ...(error.status === 404 ? unknown(session) : [h("p", { class: "empty" }, error.message)]));
    } finally {
      isAsking = false;
      renew.hidden = true;
      box.removeAttribute("aria-busy");
    }
  }

  let read = null;
  return {
    title: text.plain(session, 60),
    update({ flow, outcomes }) {
      const present = `${flow.read} ${outcomes.rows} ${flow.states.map(({ lines }) => lines)}`;
      if (read === null || (shown === null && !isAsking && read !== present)) ask();
      else if (read !== present && shown !== null) quietly();
      read = present;
    },
    close() {
      isClosed = true;
    },
  };

  // Turns that a person has opened stay: the page says that there is news, and waits.
  async function quietly() {
    if (isAsking || !renew.hidden) return;
    isAsking = true;
    try {
      const answer = await get("/api/rollouts", { session });
      renew.hidden = JSON.stringify([answer.outcomes, answer.reasons, answer.turns, answer.events]) === shown;
    } catch {
      // asked again with the next state
    } finally {
      isAsking = false;
    }
  }
}

function unknown(session) {
  return [
    h(
      "section",
      { class: "card verdict state-waiting" },
      h("h2", {}, "Nothing is known of it"),
      h("p", {}, "No line that was read, no outcome row and no shard has this name. If it is a run id: shards are written when a rollout ends, and outcome rows about then. Is it spelt as in the shard?"),
      h("p", { class: "note" }, `Asked for: ${text.plain(session, 500)}`),
    ),
  ];
}

function page(found) {
  return [verdict(found), outcomes(found), turns(found), events(found)].filter(Boolean);
}

/** Say in words whether it is in, and why: one sentence for each reason. */
function verdict(found) {
  const lines = count(found.reasons);
  const total = found.reasons.reduce((sum, reason) => sum + reason.lines, 0);
  const inside = lines.get("appended") ?? 0;
  const says = !total
    ? "Not in the dataset: none of its lines was read"
    : inside === total
      ? `In the dataset: ${total === 1 ? "its one record" : `all ${format.whole(total)} records`}`
      : inside
        ? `Partly in the dataset: ${format.whole(inside)} of ${format.counted(total, "line")}`
        : `Not in the dataset: ${[...lines].map(([state, number]) => `${format.counted(number, "line")} ${STATES[state] ? stateName(state) : state}`).join(", ")}`;
  const main = !total ? "waiting" : inside ? "appended" : [...lines.keys()][0];
  return h(
    "section",
    { class: `card verdict state-${main}`, "aria-labelledby": "verdict-title" },
    h("h2", { id: "verdict-title" }, says),
    found.note ? h("p", {}, text.plain(found.note, 1_000)) : null,
    h("ul", { class: "reasons" }, found.reasons.map((reason) => h(
      "li",
      { class: `state-${reason.state}` },
      h("p", {}, stateBadge(reason.state), h("span", { class: "because" }, text.nodes(becauseOf(reason).slice(0, 2_000)))),
      h("p", { class: "note" }, `${text.plain(reason.shard, 300)}, ${span(reason)}`),
      reason.details.length ? h("ul", { class: "note details" }, reason.details.map((detail) => h("li", {}, text.plain(detail, 600)))) : null,
    ))),
  );
}

function outcomes(found) {
  if (!found.outcomes.length) return null;
  return h(
    "section",
    { class: "card", "aria-labelledby": "outcomes-title" },
    h("div", { class: "card-head" }, h("h2", { id: "outcomes-title" }, found.outcomes.length === 1 ? "Its outcome" : "Its outcomes")),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Outcomes" }, h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ["Row", "Created", "Reward", "Achievements", "Steps", "Qualifies"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.outcomes.map((row) => h(
        "tr",
        {},
        h("th", { scope: "row" }, format.whole(row.id)),
        h("td", {}, text.plain(row.created_at ?? format.NONE, 40)),
        h("td", {}, format.reward(row.total_reward)),
        h("td", {}, format.reward(row.achievements_count)),
        h("td", {}, format.reward(row.total_steps)),
        h("td", { class: row.qualifies ? "yes" : "no" }, `${row.qualifies ? "yes" : "no"}${row.withdrawn ? ", withdrawn since" : ""}`),
      ))),
    )),
  );
}

function turns(found) {
  if (!found.turns.length) return null;
  const rewards = new Map();
  for (const event of found.events) {
    if (event.turn !== null && event.value) rewards.set(event.turn, [...(rewards.get(event.turn) ?? []), event]);
  }
  return h(
    "section",
    { class: "card turns", "aria-labelledby": "turns-title" },
    h("div", { class: "card-head" }, h("h2", { id: "turns-title" }, "Turns"), h("span", { class: "note" }, "open one for its conversation")),
    h("ol", {}, found.turns.map((turn) => h("li", {}, turnRow(turn, rewards.get(turn.turn) ?? [])))),
    found.more_turns ? h("p", { class: "note" }, `${format.counted(found.more_turns, "more turn")} not shown.`) : null,
  );
}

function turnRow(turn, rewards) {
  const body = h("div", { class: "turn-body" });
  const reply = turn.preview ? replyGist(turn.preview.tool_calls ?? [], turn.preview.text ?? "") : "(cannot be shown)";
  const details = h(
    "details",
    { class: `turn state-${turn.state}`, ontoggle: () => details.open && load() },
    h(
      "summary",
      {},
      h("span", { class: "turn-number" }, turn.turn === null ? `line ${format.whole(turn.line)}` : `turn ${format.reward(turn.turn)}`),
      h("span", { class: "turn-gist" }, reply),
      rewards.length ? h("span", { class: "turn-rewards" }, rewards.map((event) => h("span", { class: "badge" }, `${text.plain(event.type ?? event.key ?? "reward", 40).replaceAll("_", " ")} ${format.reward(event.value)}`))) : null,
      stateBadge(turn.state),
    ),
    body,
  );
  let isLoaded = false;
  async function load() {
    if (isLoaded) return;
    isLoaded = true;
    fill(body, h("p", { class: "because" }, text.nodes(becauseOf(turn).slice(0, 2_000))), h("p", { class: "note" }, `${text.plain(turn.shard, 300)}, line ${format.whole(turn.line)}`));
    const other = otherRecord(turn);
    if (other && turn.offset !== null) body.append(h("p", {}, h("a", { href: toRecord(turn.offset) }, `${other}, at byte ${format.whole(turn.offset)}`)));
    if (!turn.src) return;
    const note = h("p", { class: "note" }, "Loading…");
    body.append(note);
    try {
      note.replaceWith(recordCard(await get(turn.src), { link: false }));
    } catch (error) {
      say(note, error.message);
    }
  }
  return details;
}

function events(found) {
  if (!found.events.length && !found.events_note) return null;
  return h(
    "section",
    { class: "card", "aria-labelledby": "events-title" },
    h("div", { class: "card-head" }, h("h2", { id: "events-title" }, "Rewards on the way")),
    found.events.length
      ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Event rewards" }, h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["Turn", "Value", "Type", "Key", "Note", "Source"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, found.events.map((event) => h(
            "tr",
            {},
            h("th", { scope: "row" }, event.turn === null ? format.NONE : format.reward(event.turn)),
            h("td", {}, format.reward(event.value)),
            ...[event.type, event.key, event.annotation, event.source].map((value) => h("td", {}, value ? text.plain(value, 300) : format.NONE)),
          ))),
        ))
      : null,
    found.events_note ? h("p", { class: "empty small" }, text.plain(found.events_note, 400)) : null,
  );
}

function count(reasons) {
  const lines = new Map();
  for (const { state, lines: number } of reasons) lines.set(state, (lines.get(state) ?? 0) + number);
  return new Map([...lines].sort((a, b) => b[1] - a[1]));
}

const stateBadge = (state) => h("span", { class: `badge state state-${state}` }, stateName(state));
const span = ({ first_line: first, lines }) => (lines === 1 ? `line ${format.whole(first)}` : `lines ${format.whole(first)}–${format.whole(first + lines - 1)}`);
