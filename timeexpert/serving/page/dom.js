// Small helpers. Whatever a server or a user wrote reaches the page through text nodes and attributes, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `properties` are attributes, except `on` (listeners by event name) and `style` (through CSSOM). */
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, { on = {}, style = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("aria-")) node.setAttribute(name, String(value)); // "false" is a value there
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  for (const [name, value] of Object.entries(style)) node.style.setProperty(name, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** 12.3 -> "12.3 s" in a video below 100 s, else "2:05.3" or "1:02:05.3". */
export function clock(time_s, duration_s, digits = 1) {
  const seconds = Number(time_s.toFixed(digits));
  if (duration_s < 100) return `${seconds.toFixed(digits)} s`;
  const rest = (seconds % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  const minutes = Math.floor(seconds / 60);
  if (duration_s < 3600) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

/** "12.3 – 15.6 s"; one time for a point; "" where there is no time. */
export function span(event, duration_s) {
  if (event.start_s === null) return "";
  const end = clock(event.end_s, duration_s);
  if (event.start_s === event.end_s) return end;
  return `${clock(event.start_s, duration_s).replace(/ s$/, "")} – ${end}`;
}

export const percent = (share) => `${Math.round(share * 100)} %`;

/** [name, share] for each confidence that an event has; a point has one time, so its start and end are one. */
export function confidences(event) {
  const point = event.start_s !== null && event.start_s === event.end_s;
  return Object.entries(event.confidence ?? {})
    .filter(([name, share]) => Number.isFinite(share) && !(point && name === "end"))
    .map(([name, share]) => [point && name === "start" ? "time" : name, share]);
}

/** "score 4.5", or "" where there is none. */
export const scoresOf = (event) =>
  event.scores.length ? `score ${event.scores.map((score) => Number(score.toFixed(2))).join(", ")}` : "";

/** One line about an event: for a tooltip, and for those who hear the page. */
export function describe(event, duration_s) {
  const sure = confidences(event).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
  return [span(event, duration_s), event.text, scoresOf(event), sure && `confidence: ${sure}`].filter(Boolean).join(" · ");
}
