// The newest records: a list that is bounded, and beside it one of them as a conversation.

import { get } from "./api.js";
import { fill, h, reconcile, say, set } from "./dom.js";
import { conversation, firstImage, gist } from "./conversation.js";
import * as format from "./format.js";
import { live } from "./live.js";
import { at, toRecord, toRollout } from "./routes.js";
import * as text from "./text.js";

const NEWEST = 20;
const MOST = 100; // records in the list, older ones asked for by hand included
const PAUSE = 2_000; // milliseconds between two questions, at least
const HOLD = 4_000; // milliseconds that a conversation stays, while the newest is followed

/** Return the section of records: `element`, `update(state)` and `close()`. */
export function newest() {
  const list = h("ol", { class: "records", "aria-label": "Newest records" });
  const detail = h("div", { class: "detail", role: "region", "aria-label": "Conversation of the chosen record", tabindex: 0 });
  const follow = h("button", { type: "button", "aria-pressed": "true", onclick: () => toggle() }, "Follow the newest");
  const older = h("button", { type: "button", class: "quiet", onclick: () => more() }, "Older records");
  const empty = h("p", { class: "empty" });
  const both = h("div", { class: "both" }, h("div", { class: "list-side scroll" }, list, older), detail);
  const element = h(
    "section",
    { class: "card newest", "aria-labelledby": "newest-title" },
    h("div", { class: "card-head" }, h("h2", { id: "newest-title" }, "Newest records"), follow),
    empty,
    both,
  );
  let records = [];
  let next = null;
  let chosen = null; // offset
  let follows = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  let asked = -1;
  let shownAt = 0;
  let isAsking = false;
  let timer = 0;
  let isClosed = false;
  set(follow, "aria-pressed", follows);

  function toggle(to = !follows) {
    follows = to;
    set(follow, "aria-pressed", follows);
    if (follows && records.length) choose(records[0].offset);
  }

  function choose(offset) {
    const record = records.find((one) => one.offset === offset);
    if (!record) return;
    chosen = offset;
    shownAt = Date.now();
    for (const button of list.querySelectorAll("button")) set(button, "aria-pressed", Number(button.dataset.offset) === offset);
    fill(detail, recordCard(record));
    detail.scrollTop = 0;
  }

  function show() {
    empty.hidden = records.length > 0;
    both.hidden = !records.length;
    reconcile(list, records, (record) => record.offset, item);
    older.hidden = next === null || records.length >= MOST;
    if (follows && records.length && records[0].offset !== chosen && Date.now() - shownAt >= HOLD) choose(records[0].offset);
    else if (chosen === null && records.length) choose(records[0].offset);
  }

  function item(record) {
    const offset = record.offset;
    const image = firstImage(record);
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "record", "data-offset": offset, "aria-pressed": String(offset === chosen), onclick: () => { toggle(false); choose(offset); } },
        image ? h("img", { class: "thumb pixels", src: at(image.src), alt: "", loading: "lazy", decoding: "async" }) : null,
        h("span", { class: "record-text" }, h("span", { class: "record-gist" }, gist(record)), h("span", { class: "note" }, `turn ${format.reward(record.turn)} · ${text.plain(record.session ?? "", 80)}`)),
        rewardBadge(record.reward),
      ),
    );
  }

  async function ask() {
    isAsking = true;
    try {
      const answer = await get("/api/records", { limit: NEWEST });
      if (isClosed) return;
      const oldest = answer.records.at(-1)?.offset ?? 0;
      // Pages that were asked for by hand stay, as long as the newest join them without a hole.
      const joins = records.length > NEWEST && records.some((record) => record.offset === oldest);
      const rest = joins ? records.filter((record) => record.offset < oldest) : [];
      records = [...keepKnown(answer.records), ...rest].slice(0, MOST);
      if (!rest.length) next = answer.next;
      show();
    } catch {
      asked = -1; // asked again with the next state
    } finally {
      isAsking = false;
    }
  }

  function keepKnown(found) {
    const known = new Map(records.map((record) => [record.offset, record]));
    return found.map((record) => known.get(record.offset) ?? record);
  }

  async function more() {
    toggle(false);
    older.disabled = true;
    try {
      const answer = await get("/api/records", { limit: NEWEST, before: next });
      records = [...records, ...answer.records].slice(0, MOST);
      next = answer.next;
      show();
    } finally {
      older.disabled = false;
    }
  }

  return {
    element,
    update(state) {
      if (!state.dataset.records) {
        say(empty, state.flow.read ? "No record qualified yet. The counts above say what became of the lines that were read." : "No record yet. Shards are written when a rollout ends; they are read the moment they appear.");
        both.hidden = true;
        empty.hidden = false;
        return;
      }
      if (state.dataset.bytes === asked || isAsking || timer) {
        if (follows) show();
        return;
      }
      asked = state.dataset.bytes;
      timer = setTimeout(() => {
        timer = 0;
        if (live.state && live.state.dataset.bytes !== asked) this.update(live.state);
        else if (follows && !isClosed) setTimeout(() => !isClosed && show(), HOLD);
      }, PAUSE);
      ask();
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

function isCut(record) {
  const texts = (record.messages ?? []).flatMap((said) => [...said.parts, ...(said.tool_calls ?? [])]);
  return record.too_long || record.messages_before > 0 || texts.some((value) => value.cut);
}

/** Return a badge that says a reward. */
export function rewardBadge(value) {
  return h("span", { class: "badge" }, h("span", { class: "badge-name" }, "reward "), format.reward(value));
}

/** Return one record with its facts and its conversation; a cut one can be completed. */
export function recordCard(record, { heading = "h3", link = true } = {}) {
  const box = h("article", { class: "record-card" });
  const draw = (shown) => {
    const facts = [
      ["Turn", format.reward(shown.turn)],
      ["Reward", format.reward(shown.reward)],
      ["Achievements", format.reward(shown.achievements)],
      ["Model", shown.model === null || shown.model === undefined ? null : text.plain(shown.model, 80)],
      ["Size", format.bytes(shown.bytes)],
      ["Time", shown.timestamp === null || shown.timestamp === undefined ? null : text.plain(shown.timestamp, 40)],
      ["Shard", shown.shard ? text.plain(shown.shard, 160) : null],
    ].filter(([, value]) => value !== null && value !== undefined);
    fill(
      box,
      h("header", { class: "record-head" }, h(heading, {}, shown.session ? h("a", { href: toRollout(shown.session) }, text.plain(shown.session, 160)) : shown.too_long ? "A long record" : "(no run id)"), link && shown.offset !== null && shown.offset !== undefined ? h("a", { class: "note", href: toRecord(shown.offset) }, `at byte ${format.whole(shown.offset)}`) : null),
      shown.unreadable ? h("p", { class: "note" }, `This line is no record that can be shown: ${text.plain(shown.unreadable, 400)}`) : h("dl", { class: "facts inline" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      shown.messages_before ? h("p", { class: "note" }, `${format.counted(shown.messages_before, "earlier message")} not shown.`) : null,
      shown.unreadable ? null : conversation(shown),
      isCut(shown) ? whole(shown) : null,
    );
  };
  const whole = (shown) => {
    const button = h("button", { type: "button", class: "quiet", onclick: load }, "Show the whole record");
    async function load() {
      button.disabled = true;
      try {
        draw(await get(`/api/records/${shown.offset}`));
        box.querySelector("a")?.focus();
      } catch (error) {
        button.replaceWith(h("p", { class: "note" }, error.message));
      }
    }
    return button;
  };
  draw(record);
  return box;
}
