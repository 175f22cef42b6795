// The state of the daemon, as it comes: at most one a second, the newest counts, and none while nobody looks.

import { get } from "./api.js";
import { at } from "./routes.js";

const AGAIN = 2_000; // milliseconds until a connection that the browser gave up is tried anew

const listeners = new Set();
let source = null;
let timer = 0;
let paused = false;
let stopping = false;

/**
 * What is known. `connection` is connecting, live, lost, stopped, paused or refused; `since` is when it became that, and
 * `skew` what the daemon's clock is ahead of this one, in seconds.
 */
export const live = { state: null, connection: "connecting", since: Date.now(), skew: 0 };

/** Call `listener(live)` after each change; returns the function that ends that. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Return what time it is for the daemon, in seconds since 1970. */
export const now = () => Date.now() / 1000 + live.skew;

/** Connect, and stay connected while the page can be seen. */
export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("online", () => reconnect(0));
  connect();
}

/** Hold everything as it is, or go on. */
export function pause(yes) {
  paused = yes;
  if (paused) {
    disconnect();
    become("paused");
  } else {
    become("connecting");
    connect();
  }
}

function connect() {
  if (source || paused || document.hidden) return;
  clearTimeout(timer);
  const mine = new EventSource(at("/api/events"));
  source = mine;
  mine.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    live.state = state;
    live.skew = state.at - Date.now() / 1000;
    stopping = false;
    become("live");
  });
  mine.addEventListener("stopping", () => {
    stopping = true;
    become("stopped");
  });
  mine.addEventListener("error", () => {
    if (source !== mine) return;
    become(stopping ? "stopped" : live.state ? "lost" : "connecting");
    if (mine.readyState === EventSource.CLOSED) refused();
  });
}

function disconnect() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

// The browser tries again by itself, but not after an answer that is no stream: a proxy's, or one that wants a token.
async function refused() {
  disconnect();
  try {
    await get("/api/state");
  } catch (error) {
    if (error.status === 401) become("refused");
  }
  reconnect(AGAIN);
}

function reconnect(after) {
  clearTimeout(timer);
  timer = setTimeout(connect, after);
}

function become(connection) {
  if (live.connection !== connection) live.since = Date.now();
  live.connection = connection;
  for (const listener of [...listeners]) listener(live);
}
