// Which experts computed an answer: a cell per layer and expert, and a row per kind of token.

import { element, percent, svg } from "./dom.js";

/**
 * `experts` is the server's {layers: [[share of the tokens, per expert]...], tokens: {text, time, score}}, where a kind of
 * token has its shares as a mean over the layers, or none. null draws nothing.
 */
export function drawExperts(experts) {
  const layers = rowsOf(experts?.layers);
  if (!layers.length) return [];
  const kinds = Object.entries(experts.tokens ?? {}).filter(([, row]) => isRow(row));
  return [
    element("h3", {}, "Expert use: layers down, experts across"),
    heatmap("layers by experts", layers, (y) => `layer ${y}`),
    ...(kinds.length ? [heatmap("kinds of token by experts", kinds.map(([, row]) => row), (y) => `${kinds[y][0]} tokens`, kinds.map(([name]) => name))] : []),
  ];
}

const isRow = (row) => Array.isArray(row) && row.length > 0 && row.every(Number.isFinite);
const rowsOf = (rows) => (Array.isArray(rows) ? rows.filter(isRow) : []);

function heatmap(what, rows, nameOf, labels = null) {
  const columns = Math.max(...rows.map((row) => row.length));
  const cells = rows.flatMap((row, y) => row.map((share, x) => ({ x, y, share })));
  const most = cells.reduce((best, cell) => (cell.share > best.share ? cell : best));
  const say = ({ x, y, share }) => `${nameOf(y)}, expert ${x}: ${percent(share)} of the tokens`;
  const readout = element("p", { class: "muted small readout" }, `Most used: ${say(most)}`);
  const picture = svg("svg", {
    class: "heat", role: "img", viewBox: `0 0 ${columns} ${rows.length}`, preserveAspectRatio: "none",
    "aria-label": `Expert use, ${what}: ${rows.length} by ${columns}. Most used: ${say(most)}.`,
    style: { height: `${Math.min(Math.max(rows.length * 12, 14), 240)}px` },
    on: {
      pointermove: (event) => {
        const cell = cells[event.target.dataset?.cell];
        if (cell) readout.textContent = capital(say(cell));
      },
      pointerleave: () => { readout.textContent = `Most used: ${say(most)}`; },
    },
  }, ...cells.map(({ x, y, share }, i) => svg("rect", {
    x, y, width: 1, height: 1, "data-cell": i, "fill-opacity": (most.share > 0 ? share / most.share : 0).toFixed(3),
  })));
  const names = labels && element("ul", { class: "heat-names", "aria-hidden": "true" }, ...labels.map((name) => element("li", {}, name)));
  return element("div", { class: labels ? "heat-box named" : "heat-box" }, names, picture, readout);
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);
