// What stands in the answer's panel, made from one answer of the server.

import { confidences, describe, element, percent, scoresOf, span } from "./dom.js";

/** Sentences on what the reader of an answer must know. */
export function notesOn(answer) {
  const notes = [];
  if (answer.video_damage) notes.push(`The video is damaged: ${answer.video_damage} The answer is about the rest.`);
  if (answer.finish_reason === "length") notes.push("The answer used up its tokens and was cut.");
  for (const problem of answer.problems ?? []) notes.push(`Not understood: ${problem.reason}${problem.position ? ` (at ${problem.position})` : ""}.`);
  return notes;
}

/** An event as a list item; `seek(time_s)` is called when it is pressed. */
export function eventItem(event, duration_s, seek) {
  const sure = confidences(event);
  const scores = scoresOf(event);
  const parts = [
    element("span", { class: "when" }, span(event, duration_s) || "no time"),
    element("span", { class: "what" }, event.text || (scores ? "" : "(no caption)"), event.text && scores ? " " : "",
      scores ? element("b", { class: "score" }, scores) : null),
    sure.length ? element("span", { class: "sure" }, ...sure.map(meter)) : null,
  ];
  if (event.start_s === null) return element("li", {}, element("div", { class: "event-row" }, ...parts));
  const click = () => seek(event.start_s);
  const label = `Go to ${describe(event, duration_s)}`;
  return element("li", {}, element("button", { type: "button", class: "event-row", "aria-label": label, on: { click } }, ...parts));
}

const meter = ([name, share]) =>
  element("span", {}, `${name} ${percent(share)}`, element("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" }));

const PHASES = { queue_s: "waited", decode_s: "decoded", encode_s: "encoded", generate_s: "generated" };

/** "decoded 0.12 s · generated 0.34 s". */
export function timingsOf(answer) {
  const known = Object.entries(PHASES).filter(([name]) => Number.isFinite(answer.timings?.[name]));
  return known.map(([name, words]) => `${words} ${answer.timings[name].toFixed(2)} s`).join(" · ");
}
