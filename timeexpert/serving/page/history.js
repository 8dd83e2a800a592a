// What was asked and answered, in this browser's storage: bounded, and nothing in it is trusted when it is read back.

import { isTrack } from "./masks.js";

const STORED = "timeexpert.history";
export const MAX_ENTRIES = 50;
const MAX_CHARS = 1_000_000;

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

/** Keep the newest that fit; returns those. Masks are not stored: one answer's could fill the storage. */
export function writeHistory(entries) {
  let kept = entries.slice(0, MAX_ENTRIES);
  const stored = () => JSON.stringify(kept.map((entry) => ({ ...entry, answer: { ...entry.answer, tracks: undefined } })));
  while (kept.length && stored().length > MAX_CHARS) kept = kept.slice(0, -1);
  try {
    localStorage.setItem(STORED, stored());
  } catch { /* storage is full or closed: the entries last until the tab is closed */ }
  return kept;
}
