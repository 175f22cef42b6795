// The words for states and reasons, the same everywhere on the page.

/** The six states of a line, in the order in which the page shows them. */
export const STATES = {
  appended: { name: "appended", says: "in the dataset" },
  duplicate: { name: "duplicate", many: "duplicates", says: "equal to a record that the dataset holds" },
  below_bar: { name: "below the bar", says: "its rollout or the record does not qualify" },
  waiting: { name: "waiting", says: "its rollout has no outcome yet" },
  never_scored: { name: "never scored", says: "has waited too long for an outcome; still taken if it comes" },
  dead_lettered: { name: "dead letter", many: "dead letters", says: "cannot be taken" },
};

const REASONS = {
  where: "by the condition",
  models: "by model",
  images: "by images",
  turn: "by turn",
  near: "nearly equal to another one",
  no_outcome: "no outcome row",
  after_last_outcome: "later than every outcome",
  unreadable: "shard cannot be read now",
};

/** Reasons of lines beyond a cap begin so; what it counts by follows. */
const CAP = "cap ";

/** Return a state's name. */
export const stateName = (state) => STATES[state]?.name ?? state;

/** Return the name of all lines in a state. */
export const stateNames = (state) => STATES[state]?.many ?? stateName(state);

/** Return words for a reason; those of dead letters name themselves. */
export const reasonName = (reason) =>
  REASONS[reason] ?? (reason.startsWith(CAP) ? `by the cap on ${reason.slice(CAP.length)}` : reason.replaceAll("_", " "));

/** Return what the record is to a line that was left out because of it. */
export function otherRecord({ state, reason }) {
  if (state === "duplicate") return `The record that it ${reason === "near" ? "nearly " : ""}equals`;
  return state === "below_bar" && reason.startsWith(CAP) ? "The last record that the cap counted" : "";
}

/** Return the reason of lines as a sentence; that of a dead letter is a mere name. */
export function becauseOf({ state, because }) {
  const words = state === "dead_lettered" ? `it cannot be taken: ${because}` : because;
  return words ? `${words[0].toUpperCase()}${words.slice(1)}.` : "";
}

/** Return the column of a condition in words. */
export const columnName = (column) => ({ total_reward: "reward", achievements_count: "achievements" })[column] ?? column;
