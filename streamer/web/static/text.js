// Text that models wrote. It is shown as it is, never as markup, and what cannot be seen is made visible: control
// characters, terminal escapes, and marks that turn the direction of writing or hide text.

import { h } from "./dom.js";
import { counted, whole } from "./format.js";

const FIRST = 4_000;
const MORE = 100_000;

// Tab and newline are what they are. Joiners (U+200C, U+200D) belong to scripts and emoji.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

/** Return text for one line, a label or an attribute: cut, without line ends and anything unseen. */
export function plain(text, most = 200) {
  const start = String(text).slice(0, most + 1).replace(/\s+/g, " ").replace(UNSEEN, (mark) => `[${name(mark)}]`);
  return start.length > most ? `${start.slice(0, most)}…` : start;
}

/** Return nodes that show text as it is, with marks for what cannot be seen. */
export function nodes(text) {
  const fragment = document.createDocumentFragment();
  let done = 0;
  for (const match of text.matchAll(UNSEEN)) {
    fragment.append(text.slice(done, match.index), h("span", { class: "unseen" }, name(match[0])));
    done = match.index + match[0].length;
  }
  fragment.append(text.slice(done));
  return fragment;
}

/**
 * Return a block of text, and a button for the rest of a long one.
 *
 * `total` is how many characters there are in the dataset, where the server sent fewer; else 0.
 */
export function block(text, className = "text", total = 0) {
  const body = h("div", { class: className, dir: "auto" });
  let shown = 0;
  const more = h("button", { type: "button", class: "quiet", onclick: () => show(MORE) });
  const box = h("div", { class: "text-box" }, body);
  const show = (length) => {
    const end = wholeCharacters(text, shown + length);
    body.append(nodes(text.slice(shown, end)));
    shown = end;
    const rest = text.length - shown;
    if (rest > 0) {
      more.textContent = `Show ${rest > MORE ? `${whole(MORE)} of ${whole(rest)} more` : counted(rest, "more character")}`;
      box.append(more);
    } else {
      more.remove();
      const unsent = total - [...text].length;
      if (total && unsent > 0) box.append(h("p", { class: "note" }, `… and ${counted(unsent, "more character")} in the record`));
    }
  };
  show(FIRST);
  return box;
}

function wholeCharacters(text, end) {
  const code = text.charCodeAt(end - 1);
  return code >= 0xd800 && code <= 0xdbff ? end + 1 : end;
}

function name(mark) {
  return mark === "\u001b" ? "ESC" : `U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
