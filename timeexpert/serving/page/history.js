// What was asked and answered, in this browser's storage: bounded, and nothing in it is trusted when it is read back.

import { isTrack } from "./masks.js";

const STORED = "timeexpert.history";
export const MAX_ENTRIES = 50;
const MAX_CHARS = 1_000_000; // without masks
const MAX_MASK_CHARS = 2_000_000; // of all masks: browsers give a page some 5 million

const isNumberOrNull = (value) => value === null || Number.isFinite(value);

const isEvent = (event) =>
  isNumberOrNull(event?.start_s) && isNumberOrNull(event.end_s) && (event.start_s === null) === (event.end_s === null)
  && Array.isArray(event.scores) && event.scores.every(Number.isFinite) && typeof event.text === "string";

/** Whether an answer has what the page draws: a server of another version, or storage that somebody edited. */
export const isAnswer = (answer) =>
  Array.isArray(answer?.events) && answer.events.every(isEvent) && typeof answer.content === "string"
  && Number.isFinite(answer.duration_s) && (answer.tracks === undefined || (Array.isArray(answer.tracks) && answer.tracks.every(isTrack)));

const isEntry = (entry) =>
  typeof entry?.id === "string" && typeof entry.prompt === "string" && typeof entry.task === "string"
  && ["key", "kind", "id", "name"].every((name) => typeof entry.video?.[name] === "string")
  && Number.isFinite(entry.asked_at) && isAnswer(entry.answer);

/** The entries, newest first. */
export function readHistory() {
  try {
    const rows = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return rows.filter(isEntry).slice(0, MAX_ENTRIES);
  } catch {
    return [];
  }
}

/** An entry without its masks; it says that they are gone. */
function bare(entry) {
  const { tracks, ...answer } = entry.answer;
  return tracks?.length ? { ...entry, answer, masksForgotten: true } : entry;
}

/** Keep the newest that fit; returns those. Of these the newest are stored with their masks, as far as those fit. */
export function writeHistory(entries) {
  let kept = entries.slice(0, MAX_ENTRIES);
  while (kept.length && JSON.stringify(kept.map(bare)).length > MAX_CHARS) kept = kept.slice(0, -1);
  let left = MAX_MASK_CHARS;
  const stored = kept.map((entry) => {
    left -= JSON.stringify(entry.answer.tracks ?? []).length;
    return left >= 0 ? entry : bare(entry);
  });
  if (!store(stored)) store(kept.map(bare)); // storage is full or closed: the entries last until the tab is closed
  return kept;
}

function store(entries) {
  try {
    localStorage.setItem(STORED, JSON.stringify(entries));
    return true;
  } catch {
    return false;
  }
}
