// Questions to the daemon that serves this page. Nothing else is ever asked.

import { at } from "./routes.js";

/** An answer that is none: `status` is that of HTTP, 0 if the daemon was not reached. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return the answer of `/api/…`, or throw an ApiError with words for people. */
export async function get(path, parameters = {}, signal = undefined) {
  const address = new URL(at(path), location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) address.searchParams.set(name, value);
  }
  let response;
  try {
    response = await fetch(address, { signal, headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The daemon cannot be reached.", 0);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) {
    throw new ApiError(answer?.error ?? `The daemon answered with status ${response.status}.`, response.status);
  }
  return answer;
}
