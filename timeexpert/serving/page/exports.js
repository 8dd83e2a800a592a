// Answers as files: JSON (everything), CSV (RFC 4180, one row per event), SRT (subtitles).

const COLUMNS = ["video", "prompt", "task", "event", "start_s", "end_s", "text", "scores",
  "confidence_start", "confidence_end", "confidence_score"];

/** Entries of the history as JSON: the answers as the server gave them. */
export function toJson(entries) {
  const rows = entries.map(({ video, prompt, task, model, asked_at, answer }) => ({
    video: video.name, prompt, task: task || null, model, asked_at: new Date(asked_at).toISOString(), ...answer,
  }));
  return JSON.stringify(rows, null, 2) + "\n";
}

export function toCsv(entries) {
  const rows = entries.flatMap(({ video, prompt, task, answer }) =>
    answer.events.map((event, i) => [
      text(video.name), text(prompt), task, i + 1, event.start_s, event.end_s, text(event.text), event.scores.join(" "),
      event.confidence?.start, event.confidence?.end, event.confidence?.score,
    ]));
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

// Spreadsheets run a cell that begins like this; the apostrophe makes it text.
const text = (value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);

const cell = (value) => {
  const written = String(value ?? "");
  return /[",\r\n]/.test(written) ? `"${written.replaceAll('"', '""')}"` : written;
};

/** Events with a time, in order of their start. A point is shown for a second, or until the next one begins. */
export function toSrt(entries) {
  const events = entries.flatMap((entry) => entry.answer.events).filter((event) => event.start_s !== null);
  events.sort((a, b) => a.start_s - b.start_s || a.end_s - b.end_s);
  return events.map((event, i) => {
    const next = events.slice(i + 1).find((other) => other.start_s > event.start_s);
    const end_s = event.end_s > event.start_s ? event.end_s : Math.min(event.start_s + 1, next?.start_s ?? Infinity);
    return `${i + 1}\r\n${srtTime(event.start_s)} --> ${srtTime(end_s)}\r\n${caption(event)}\r\n\r\n`;
  }).join("");
}

/** 3725.25 -> "01:02:05,250". */
export function srtTime(time_s) {
  const ms = Math.round(time_s * 1000);
  const part = (value, digits) => String(Math.floor(value)).padStart(digits, "0");
  return `${part(ms / 3_600_000, 2)}:${part((ms / 60_000) % 60, 2)}:${part((ms / 1000) % 60, 2)},${part(ms % 1000, 3)}`;
}

// A blank line would end the cue, and an arrow would begin another.
function caption(event) {
  const words = event.text.split(/[\r\n]+/).map((line) => line.trim()).filter(Boolean).join("\r\n").replace(/-{2,}>/g, "->");
  return words || (event.scores.length ? `score ${event.scores.join(", ")}` : "(no caption)");
}

/** Hand a file to the browser's downloads. */
export function download(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** "../my clip.mp4" -> "my_clip". */
export function stem(name) {
  const base = name.split(/[\\/]/).pop().replace(/\.[^.]*$/, "");
  return base.replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[._]+/, "").slice(0, 60) || "answer";
}
