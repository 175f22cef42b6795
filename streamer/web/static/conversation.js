// A conversation of the dataset: roles, text, tool calls, images. Every text in it was written by a model, or by
// whatever the model was shown: it goes in as text, and no link and no address is ever made of it.

import { get } from "./api.js";
import { h } from "./dom.js";
import { layOut } from "./json.js";
import { at } from "./routes.js";
import * as text from "./text.js";

const ROLES = new Set(["system", "developer", "user", "assistant", "tool", "function"]);
const SMALL = 200; // pixels; frames of games are shown larger than they are, dot by dot
const FOLDED = 240; // characters; longer system prompts, mostly the same in each record, are folded

/** Return one element for all messages of a record, as the server sends it. */
export function conversation(record) {
  if (record.too_long) return h("p", { class: "note" }, "It is too long to be shown without being asked for.");
  return h("ol", { class: "conversation" }, (record.messages ?? []).map(message));
}

function message(said) {
  const role = String(said.role ?? "no role");
  const parts = [...(said.parts ?? []).map(part), ...(said.tool_calls ?? []).map(call)];
  const body = h("div", { class: "said" }, parts.length ? parts : h("p", { class: "note" }, "(nothing)"));
  return h(
    "li",
    { class: `message ${ROLES.has(role) ? `role-${role}` : ""}` },
    h("div", { class: "role" }, text.plain(role, 40), named(said)),
    isLong(said) ? folded(body, said) : body,
  );
}

const isLong = (said) => said.role === "system" && (said.parts ?? []).some((value) => (value.length ?? 0) > FOLDED);

function folded(body, said) {
  const first = said.parts.find((value) => value.type === "text");
  return h("details", {}, h("summary", {}, text.plain(first?.text ?? "system prompt", 120)), body);
}

function named(said) {
  const name = said.name ?? said.tool_call_id;
  return name ? h("span", { class: "note" }, text.plain(name, 60)) : null;
}

function part(value) {
  switch (value.type) {
    case "text":
      return text.block(value.text, "text", value.cut ? value.length : 0);
    case "image":
      return image(value);
    case "remote_image":
      return h("div", { class: "unshown" }, h("p", {}, "An image elsewhere, which is not fetched:"), text.block(value.url, "text code"));
    case "refused_image":
      return h("div", { class: "unshown" }, h("p", {}, `No image that can be shown: ${text.plain(value.why)}`));
    default:
      return text.block(value.text ?? "", "text code", value.cut ? value.length : 0);
  }
}

function image(value) {
  const shown = h("img", { src: at(value.src), alt: `Image ${value.image + 1} of this record`, loading: "lazy", decoding: "async" });
  const box = h("div", { class: "picture" }, shown);
  shown.addEventListener("load", () => shown.classList.toggle("pixels", shown.naturalWidth <= SMALL));
  shown.addEventListener("error", async () => {
    const why = await get(value.src).catch((error) => error.message);
    box.replaceWith(h("div", { class: "unshown" }, h("p", {}, `No image that can be shown: ${text.plain(why)}`)));
  });
  return box;
}

function call(value) {
  return h(
    "div",
    { class: "call" },
    h("div", { class: "call-name" }, h("span", { class: "note" }, "calls "), text.plain(value.name ?? "(no name)", 120)),
    text.block(value.cut ? value.arguments : layOut(value.arguments ?? ""), "text code", value.cut ? value.length : 0),
  );
}

/** Return what a reply does, in one line: its calls, or its words. */
export function gist(record) {
  const reply = (record.messages ?? []).findLast((said) => said.role === "assistant");
  if (!reply) return record.too_long ? "(too long to be shown)" : "(no reply)";
  return replyGist(reply.tool_calls ?? [], (reply.parts ?? []).find((value) => value.type === "text")?.text ?? "");
}

/** The same, of a reply's tool calls and text. */
export function replyGist(calls, said) {
  const does = calls.map((value) => `${text.plain(value.name ?? "", 60)}(${brief(value.arguments ?? "")})`);
  return does.length ? does.join(" ") : text.plain(said, 160) || "(an empty reply)";
}

function brief(written) {
  try {
    const value = JSON.parse(written);
    const values = value && typeof value === "object" ? Object.values(value).flat(Infinity) : [value];
    if (values.every((item) => item === null || typeof item !== "object")) return text.plain(values.join(", "), 120);
  } catch {
    // what does not parse is shown as it stands
  }
  return text.plain(written, 120);
}

/** Return the first image of a record, null if it has none. */
export function firstImage(record) {
  for (const said of record.messages ?? []) {
    for (const value of said.parts ?? []) if (value.type === "image") return value;
  }
  return null;
}
