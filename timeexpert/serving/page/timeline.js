// The timeline: a ruler, then one row per question. Segments, points with their scores as a curve, the playhead.

import { clock, describe, element, svg } from "./dom.js";

export const COLOURS = 6; // --row-0 ... in page.css
const LANE = 22; // px, as in page.css
const CURVE = 56; // px

/**
 * Draws into `box`. `seek(time_s)` and `pick(entryId, eventIndex)` are called when somebody asks for it; `tip` is the
 * element that shows what is under the pointer.
 */
export class Timeline {
  constructor(box, tip, { seek, pick }) {
    this.box = box;
    this.tip = tip;
    this.seek = seek;
    this.pick = pick;
    this.duration_s = 0;
    this.time_s = 0;
    this.marks = [];
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hideTip());
  }

  /** `rows` are entries of the history, each with the `colour` of its row; `selected` is the id of one. */
  draw(rows, selected, duration_s) {
    this.duration_s = duration_s;
    this.marks = [];
    this.hideTip();
    this.box.replaceChildren();
    if (!(duration_s > 0)) return;
    const shown = rows.find((row) => row.id === selected);
    this.ruler = this.drawRuler(shown?.answer.frame_times_s ?? []);
    this.playhead = element("div", { class: "playhead", "aria-hidden": "true" });
    const tracks = element("div", { class: "tracks" }, this.ruler, ...rows.map((row) => this.drawRow(row, selected)), this.playhead);
    this.box.append(tracks, ...this.legend(rows, shown));
    this.showTime(this.time_s);
  }

  /** Move the playhead, and mark the events of this moment. */
  showTime(time_s) {
    this.time_s = time_s;
    if (!this.playhead?.isConnected) return;
    this.playhead.style.left = this.place(time_s);
    this.ruler.setAttribute("aria-valuenow", time_s.toFixed(2));
    this.ruler.setAttribute("aria-valuetext", clock(time_s, this.duration_s));
    for (const { node, event } of this.marks) {
      node.classList.toggle("now", event.start_s <= time_s && time_s <= Math.max(event.end_s, event.start_s + 0.2));
    }
  }

  place(time_s) {
    return `${Number((Math.min(Math.max(time_s / this.duration_s, 0), 1) * 100).toFixed(4))}%`;
  }

  drawRuler(frameTimes) {
    const ruler = element("div", {
      class: "ruler", role: "slider", tabindex: 0, "aria-label": "Position in the video", "aria-valuemin": 0,
      "aria-valuemax": this.duration_s.toFixed(2), on: { keydown: (event) => this.step(event) },
    });
    const gap_s = tickGap(this.duration_s);
    for (let i = 0; i * gap_s <= this.duration_s; i++) {
      const late = i * gap_s > this.duration_s * 0.9;
      const label = clock(i * gap_s, this.duration_s, gap_s < 1 ? 1 : 0);
      ruler.append(element("span", { class: late ? "tick late" : "tick", style: { left: this.place(i * gap_s) } }, label));
    }
    for (const time_s of frameTimes) ruler.append(element("i", { class: "frame", style: { left: this.place(time_s) } }));
    this.seekOnDrag(ruler);
    return ruler;
  }

  step(event) {
    const stride_s = event.shiftKey ? 0.1 : 1;
    const target = {
      ArrowLeft: this.time_s - stride_s, ArrowDown: this.time_s - stride_s,
      ArrowRight: this.time_s + stride_s, ArrowUp: this.time_s + stride_s,
      PageDown: this.time_s - 10, PageUp: this.time_s + 10, Home: 0, End: this.duration_s,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.seek(Math.min(Math.max(target, 0), this.duration_s));
  }

  /** A press on the empty part of a track, and a drag from there, seek. */
  seekOnDrag(track) {
    const go = (event) => {
      const { left, width } = track.getBoundingClientRect();
      this.seek(Math.min(Math.max((event.clientX - left) / width, 0), 1) * this.duration_s);
    };
    track.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest("button")) return;
      track.setPointerCapture(event.pointerId);
      go(event);
    });
    track.addEventListener("pointermove", (event) => track.hasPointerCapture(event.pointerId) && go(event));
  }

  drawRow(row, selected) {
    const timed = row.answer.events.map((event, index) => ({ event, index })).filter(({ event }) => event.start_s !== null);
    const points = timed.filter(({ event }) => event.start_s === event.end_s);
    const scored = points.filter(({ event }) => event.scores.length);
    const curve = scored.length > 1 ? scored.sort((a, b) => a.event.start_s - b.event.start_s) : [];
    const others = timed.filter((item) => !curve.includes(item));
    const lanes = lanesOf(others);
    const height = (curve.length ? CURVE : 0) + lanes.count * LANE;
    const track = element("div", { class: "track", style: { height: `${Math.max(height, LANE)}px` } });
    const top = Math.max(0, ...curve.map(({ event }) => mean(event.scores)));
    if (curve.length) track.append(this.drawCurve(curve, top), element("span", { class: "scale" }, Number(top.toFixed(2))));
    const nodes = timed.map((item) => {
      const lane = lanes.of.get(item);
      const y = lane === undefined ? curveY(item.event, top) : (curve.length ? CURVE : 0) + lane * LANE;
      return this.drawEvent(row, item, lane === undefined, y);
    });
    roving(nodes);
    track.append(...nodes);
    if (!nodes.length) track.append(element("span", { class: "none" }, "no event with a time"));
    this.seekOnDrag(track);
    const name = element("button", {
      type: "button", class: "row-name", "aria-pressed": row.id === selected, title: row.prompt,
      on: { click: () => this.pick(row.id, null) },
    }, row.prompt);
    const group = { class: "row", role: "group", "aria-label": `Events: ${row.prompt}`, style: { "--colour": `var(--row-${row.colour})` } };
    return element("div", group, name, track);
  }

  drawEvent(row, { event, index }, onCurve, y) {
    const point = event.start_s === event.end_s;
    const label = describe(event, this.duration_s);
    const width = point ? {} : { width: this.place(event.end_s - event.start_s) };
    const node = element("button", {
      type: "button", class: point ? (onCurve ? "event dot" : "event point") : "event segment", "aria-label": label,
      style: { left: this.place(event.start_s), top: `${y.toFixed(1)}px`, ...width },
      on: {
        click: () => {
          this.seek(event.start_s);
          this.pick(row.id, index);
        },
        pointerenter: () => this.showTip(node, label),
        pointerleave: () => this.hideTip(),
        focus: () => node.matches(":focus-visible") && this.showTip(node, label),
        blur: () => this.hideTip(),
      },
    });
    if (!point) {
      const edge = (name) => element("i", { class: `edge ${name}`, style: { opacity: edgeOpacity(event.confidence?.[name]) } });
      node.append(edge("start"), element("span", {}, event.text), edge("end"));
    }
    this.marks.push({ node, event });
    return node;
  }

  drawCurve(curve, top) {
    const at = ({ event }) => `${((event.start_s / this.duration_s) * 1000).toFixed(2)},${curveY(event, top).toFixed(2)}`;
    const line = curve.map(at);
    const x = (item) => ((item.event.start_s / this.duration_s) * 1000).toFixed(2);
    const area = [`${x(curve[0])},${CURVE}`, ...line, `${x(curve.at(-1))},${CURVE}`];
    return svg("svg", { class: "curve", viewBox: `0 0 1000 ${CURVE}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("polygon", { points: area.join(" ") }), svg("polyline", { points: line.join(" ") }));
  }

  legend(rows, shown) {
    const notes = [];
    if (shown?.answer.frame_times_s?.length) notes.push(`Marks on the ruler: the ${shown.answer.frame_times_s.length} frames that the model saw.`);
    const sure = rows.some((row) => row.answer.events.some((event) => Number.isFinite(event.confidence?.start)));
    if (sure) notes.push("Edges fade where the model was less sure.");
    return notes.length ? [element("p", { class: "muted small" }, notes.join(" "))] : [];
  }

  showTip(node, label) {
    this.tip.textContent = label;
    this.tip.hidden = false;
    const place = node.getBoundingClientRect();
    const { width, height } = this.tip.getBoundingClientRect();
    const left = Math.min(Math.max(place.left + place.width / 2 - width / 2, 8), document.documentElement.clientWidth - width - 8);
    this.tip.style.left = `${Math.max(left, 8)}px`;
    this.tip.style.top = `${place.top - height - 8 > 0 ? place.top - height - 8 : place.bottom + 8}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }
}

/** Seconds between labels: at most eight of them, at round numbers. */
function tickGap(duration_s) {
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return steps.find((step) => duration_s / step <= 7) ?? 7200;
}

/** Events that overlap stand in lanes below each other. */
function lanesOf(items) {
  const ends = [];
  const of = new Map();
  for (const item of [...items].sort((a, b) => a.event.start_s - b.event.start_s)) {
    let lane = ends.findIndex((end_s) => end_s <= item.event.start_s);
    if (lane < 0) lane = ends.push(0) - 1;
    ends[lane] = Math.max(item.event.end_s, item.event.start_s + 1e-6);
    of.set(item, lane);
  }
  return { of, count: ends.length };
}

/** One stop for Tab in a row; arrows, Home and End go from event to event. */
function roving(nodes) {
  const order = [...nodes].sort((a, b) => parseFloat(a.style.left) - parseFloat(b.style.left));
  order.forEach((node, i) => {
    node.tabIndex = i ? -1 : 0;
    node.addEventListener("keydown", (event) => {
      const target = { ArrowRight: order[i + 1], ArrowLeft: order[i - 1], Home: order[0], End: order.at(-1) }[event.key];
      if (!target) return;
      event.preventDefault();
      node.tabIndex = -1;
      target.tabIndex = 0;
      target.focus();
    });
  });
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const curveY = (event, top) => 8 + (1 - (top > 0 ? Math.max(mean(event.scores), 0) / top : 0)) * (CURVE - 14);
const edgeOpacity = (share) => (Number.isFinite(share) ? (0.15 + 0.85 * share).toFixed(2) : "1");

