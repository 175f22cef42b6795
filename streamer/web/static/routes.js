// Addresses within the page. Ids of rollouts are any text: they are always encoded, and always decoded as a whole.

// Where the daemon writes several datasets, each has its page below an address of its own.
const base = /^\/datasets\/[^/]+/.exec(location.pathname)?.[0] ?? "";

/** Return the address of something that the daemon has for this dataset. */
export const at = (path) => base + path;

const encode = (text) => encodeURIComponent(String(text).toWellFormed());

export const toOverview = () => "#/";
export const toRollout = (session) => `#/rollouts/${encode(session)}`;
export const toRecord = (offset) => `#/records/${offset}`;
export const toLine = (shard, line) => `#/lines/${shard}/${line}`;
export const toState = (state) => `#/states/${state}`;
export const toSearch = (text) => `#/search/${encode(text)}`;

/** Return what the address asks for: its parts, decoded. */
export function parts() {
  const [room = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return [room, ...rest.map(decode)];
}

/** Turn an address with a path, as a person may have been given it, into one within the page. */
export function adoptPath() {
  const found = /^\/(rollouts|records)\/(.+)$/.exec(location.pathname.slice(base.length));
  if (found) history.replaceState(null, "", `${at("/")}#/${found[1]}/${encode(decode(found[2]))}`);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
