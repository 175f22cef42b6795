// JSON, laid out for people. Its tokens stay as they were written: no number loses a digit, no key is dropped.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs;
const WIDTH = 96;
const LONGEST = 200_000; // characters

/** Return `written` laid out over lines where it is long, or as it is if it is no JSON. */
export function layOut(written) {
  if (written.length > LONGEST) return written;
  try {
    JSON.parse(written);
    return write(group(written.match(TOKEN)), "");
  } catch {
    return written; // no JSON, or nested deeper than a stack
  }
}

/** A value is a text or {open, items, close}, an item of an object {key, value}; `length` is that of it on one line. */
function group(tokens) {
  const top = { open: "", items: [], close: "", length: 0 };
  const stack = [top];
  let key = null;
  tokens.forEach((token, i) => {
    const inner = stack.at(-1);
    if (token === "," || token === ":") return;
    if (token === "]" || token === "}") {
      stack.pop();
      stack.at(-1).length += inner.length;
      return;
    }
    if (tokens[i + 1] === ":" && inner.open === "{") {
      key = token;
      return;
    }
    const opens = token === "[" || token === "{";
    const value = opens ? { open: token, items: [], close: token === "[" ? "]" : "}", length: 2 } : token;
    inner.items.push({ key, value });
    inner.length += 2 + (key === null ? 0 : key.length + 2) + (opens ? 0 : token.length);
    key = null;
    if (opens) stack.push(value);
  });
  return top.items[0].value;
}

function write(value, indent) {
  if (typeof value === "string") return value;
  const isShort = value.length <= WIDTH;
  const inner = isShort ? "" : `${indent}  `;
  const items = value.items.map((item) => inner + (item.key === null ? "" : `${item.key}: `) + write(item.value, inner));
  return isShort || !items.length
    ? `${value.open}${items.join(", ")}${value.close}`
    : `${value.open}\n${items.join(",\n")}\n${indent}${value.close}`;
}
