// Masks of an answer over the player: run lengths decoded here, one colour per object, the frame that is on screen.

import { element } from "./dom.js";

// As in the videos that `timeexpert predict` writes: bright enough on any picture.
const COLOURS = [[86, 180, 233], [255, 154, 92], [47, 211, 162], [238, 148, 198], [227, 212, 79], [167, 176, 245]];
const ALPHA = 130; // of 255, inside; the outline is opaque
const MAX_PIXELS = 2 ** 26; // of one mask
const KEPT = 64; // pictures of masks in memory

/**
 * COCO's compressed run lengths as bytes, row by row: 1 where the mask is. The definition, and its other writing, are in
 * timeexpert/data/mask_rle.py. Throws an Error where the text does not fill height x width exactly.
 */
export function decodeRle(counts, height, width) {
  const lengths = [];
  for (let at = 0; at < counts.length;) {
    let value = 0;
    let scale = 1; // no shifts: they end at 32 bits
    for (;;) {
      const digit = counts.charCodeAt(at++) - 48;
      if (!(digit >= 0 && digit < 64) || scale > 2 ** 30) throw new Error("a mask holds a character out of range or breaks off.");
      value += (digit & 31) * scale;
      scale *= 32;
      if (digit & 32) continue;
      if (digit & 16) value -= scale;
      break;
    }
    lengths.push(lengths.length > 2 ? value + lengths.at(-2) : value);
  }
  const mask = new Uint8Array(height * width);
  let place = 0;
  lengths.forEach((length, i) => {
    if (length < 0 || place + length > mask.length) throw new Error("a mask has more pixels than its size.");
    if (i % 2) for (let p = place; p < place + length; p++) mask[(p % height) * width + Math.floor(p / height)] = 1;
    place += length;
  });
  if (place !== mask.length) throw new Error("a mask has fewer pixels than its size.");
  return mask;
}

/** Whether a value has what is drawn here. */
export const isTrack = (track) =>
  Array.isArray(track?.size) && track.size.length === 2 && track.size.every((n) => Number.isInteger(n) && n > 0)
  && track.size[0] * track.size[1] <= MAX_PIXELS && typeof track.object_id === "string"
  && Array.isArray(track.times_s) && track.times_s.length > 0 && track.times_s.every(Number.isFinite)
  && Array.isArray(track.rles) && track.rles.length === track.times_s.length
  && track.rles.every((rle) => rle === null || typeof rle === "string");

/** The place of a track's mask at a time, or -1: the nearest one, none more than half its usual step outside. */
export function placeAt({ times_s: times }, time_s) {
  const gaps = times.slice(1).map((t, i) => t - times[i]).sort((a, b) => a - b);
  const middle = gaps.length / 2;
  const step = gaps.length ? (gaps[Math.ceil(middle) - 1] + gaps[Math.floor(middle)]) / 2 : 1;
  if (time_s < times[0] - step / 2 || time_s > times.at(-1) + step / 2) return -1;
  let best = 0;
  times.forEach((t, i) => { if (Math.abs(t - time_s) < Math.abs(times[best] - time_s)) best = i; });
  return best;
}

/** Draws the tracks of one answer on `canvas`, which lies over `player`; `bar` gets a button and the objects' names. */
export class MaskOverlay {
  constructor(canvas, player, bar) {
    Object.assign(this, { canvas, player, bar, tracks: [], shown: true, problem: "", pictures: new Map(), drawn: "" });
    this.button = element("button", { type: "button", title: "Key: m", on: { click: () => this.toggle() } });
    new ResizeObserver(() => this.place()).observe(player);
    player.addEventListener("loadedmetadata", () => this.place());
    document.addEventListener("keydown", (event) => {
      const writing = event.target.closest?.("input, textarea, select");
      if (event.key === "m" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey && this.tracks.length) this.toggle();
    });
  }

  /** Show the tracks of another answer; none take the bar and the canvas away. */
  use(tracks) {
    this.tracks = tracks;
    this.pictures.clear();
    this.problem = "";
    this.bar.hidden = !tracks.length;
    this.write();
    this.place();
  }

  toggle() {
    this.shown = !this.shown;
    this.write();
    this.draw(this.player.currentTime);
  }

  write() {
    this.canvas.hidden = !this.tracks.length || !this.shown;
    this.button.textContent = this.shown ? "Hide masks" : "Show masks";
    const names = this.tracks.map((track, i) => element("span", { class: "object" },
      element("i", { style: { background: `rgb(${COLOURS[i % COLOURS.length].join(" ")})` } }), track.object_id || `object ${i + 1}`));
    const problem = this.problem && element("span", { class: "muted" }, this.problem);
    this.bar.replaceChildren(this.button, ...names, ...(problem ? [problem] : []));
  }

  /** Lay the canvas over the picture, which the player fits into its box. */
  place() {
    const { player, canvas } = this;
    if (!this.tracks.length || !player.videoWidth) return;
    const [box, around] = [player, player.parentElement].map((node) => node.getBoundingClientRect());
    const scale = Math.min(box.width / player.videoWidth, box.height / player.videoHeight);
    const [width, height] = [player.videoWidth * scale, player.videoHeight * scale];
    canvas.style.left = `${box.left - around.left + (box.width - width) / 2}px`;
    canvas.style.top = `${box.top - around.top + (box.height - height) / 2}px`;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
    this.drawn = "";
    this.draw(player.currentTime);
  }

  draw(time_s) {
    if (!this.tracks.length || !this.shown) return;
    const places = this.tracks.map((track) => placeAt(track, time_s));
    if (places.join() === this.drawn) return;
    this.drawn = places.join();
    const pen = this.canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    places.forEach((place, i) => {
      const picture = place < 0 || this.tracks[i].rles[place] === null ? null : this.picture(i, place);
      if (picture) pen.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    });
  }

  /** A mask in its object's colour; null where it does not decode, which is said in the bar. */
  picture(object, place) {
    const key = `${object} ${place}`;
    if (!this.pictures.has(key)) {
      if (this.pictures.size >= KEPT) this.pictures.delete(this.pictures.keys().next().value);
      this.pictures.set(key, this.paint(this.tracks[object], place, COLOURS[object % COLOURS.length]));
    }
    return this.pictures.get(key);
  }

  paint({ size: [height, width], rles }, place, colour) {
    let mask;
    try {
      mask = decodeRle(rles[place], height, width);
    } catch (error) {
      this.problem = `Not drawn: ${error.message}`;
      this.write();
      return null;
    }
    const picture = element("canvas", { width, height });
    const pen = picture.getContext("2d");
    const image = pen.createImageData(width, height);
    for (let p = 0; p < mask.length; p++) {
      if (!mask[p]) continue;
      const x = p % width;
      const inner = x > 0 && x < width - 1 && mask[p - 1] && mask[p + 1] && mask[p - width] && mask[p + width];
      image.data.set([...colour, inner ? ALPHA : 255], 4 * p);
    }
    pen.putImageData(image, 0, 0);
    return picture;
  }
}
