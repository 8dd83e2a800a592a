// Two rounds of decisions about masks, by keyboard. Texts reach the page as text, never as HTML.

const byId = (id) => document.getElementById(id);
const QUESTIONS = {
  1: "This shot has no mask. Is the person of the first picture in it?",
  2: "Does the mask lie on the person of the first picture?",
};
const LABELS = {
  1: { accept: "Not there: fine", reject: "There, without a mask: drop the video" },
  2: { accept: "Right person", reject: "There, but the mask is on somebody else: drop the video" },
};
const SAID = { accept: "accepted", reject: "video dropped", remove: "mask removed" };

let videos = [];
let round = 1;
let at = 0; // number of the item in the list of this round
let sending = false;

/** Items of a round: of a dropped video only those that were decided, so that they can be taken back. */
function items(number) {
  return videos.flatMap((video) => {
    const own = video.items.filter((item) => item.round === number);
    const dropped = video.state === "rejected";
    return own.filter((item) => !dropped || item.decision !== null).map((item) => ({ ...item, video }));
  });
}

const isOpen = (item) => item.decision === null;

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The page’s server does not answer. Start it again, then load this page again: decisions are kept.");
  }
  if (response.ok) return response.json();
  let words = "";
  try { words = (await response.json()).error.message; } catch { /* not one of our answers */ }
  throw new Error(words || `The server answered with status ${response.status}.`);
}

function say(error) {
  byId("problem").textContent = error ? error.message : "";
  byId("problem").hidden = !error;
}

function seconds(value) {
  const minutes = Math.floor(value / 60);
  return minutes ? `${minutes}:${(value % 60).toFixed(1).padStart(4, "0")}` : `${value.toFixed(1)} s`;
}

function picture(video, name) {
  return `pictures/${encodeURIComponent(video.key)}/${name}?${encodeURIComponent(video.tracks)}`;
}

/** Show a picture; until it is there the one before it is hidden, so that nobody decides about the wrong one. */
function show(id, path) {
  const image = byId(id);
  if (image.getAttribute("src") === path) return;
  image.classList.add("loading");
  image.src = path;
}

const bothShown = () => !document.querySelector("img.loading");

function drawRounds() {
  for (const number of [1, 2]) {
    const list = items(number);
    const open = list.filter(isOpen).length;
    const tab = byId(`round-${number}`);
    tab.setAttribute("aria-selected", String(number === round));
    tab.querySelector("span").textContent = `(${list.length - open} of ${list.length})`;
  }
  const count = (state) => videos.filter((video) => video.state === state).length;
  byId("totals").textContent = `videos: ${count("passed")} verified, ${count("rejected")} dropped, ${count("waiting")} open`;
  const list = items(round);
  byId("progress").max = Math.max(1, list.length);
  byId("progress").value = list.filter((item) => !isOpen(item)).length;
}

function drawItem(item, list) {
  const { video } = item;
  byId("where").textContent =
    `${video.video}, shot ${item.shot + 1} of ${video.shots}, ${seconds(item.start_s)} to ${seconds(item.end_s)}`;
  show("reference", picture(video, "reference.jpg"));
  show("shot", picture(video, `shot-${item.shot}.jpg`));
  const next = list.slice(at + 1).find(isOpen);
  if (next) new Image().src = picture(next.video, `shot-${next.shot}.jpg`); // is there when its turn comes
  byId("description").textContent = video.description;
  byId("shot-caption").textContent = `Centre frame of the shot, ${round === 1 ? "without" : "with"} a mask`;
  byId("question").textContent = QUESTIONS[round];
  for (const name of ["accept", "reject"]) byId(name).querySelector("span").textContent = LABELS[round][name];
  byId("remove").hidden = round === 1;
  for (const name of ["accept", "remove", "reject"]) {
    byId(name).setAttribute("aria-pressed", String(item.decision === name));
  }
  byId("undo").disabled = isOpen(item);
  byId("back").disabled = at === 0;
  byId("next").disabled = at === list.length - 1;
  byId("open").disabled = !list.some((other, i) => i !== at && isOpen(other));
  byId("status").textContent =
    `${at + 1} of ${list.length} in this round; ${isOpen(item) ? "open" : SAID[item.decision]}`;
}

function drawEnd() {
  const open = { 1: items(1).filter(isOpen).length, 2: items(2).filter(isOpen).length };
  const [head, words] = [byId("done").querySelector("h2"), byId("done").querySelector("p")];
  if (open[3 - round]) {
    head.textContent = `Round ${round} has nothing to decide`;
    words.textContent = `Go on with round ${3 - round}: its tab, or the key ${3 - round}.`;
  } else {
    head.textContent = "Every shot is decided";
    words.textContent = "Stop the page with Ctrl-C, then run the same annotate command again, without --verify.";
  }
}

function draw() {
  const list = items(round);
  at = Math.max(0, Math.min(at, list.length - 1));
  byId("item").hidden = !list.length;
  byId("done").hidden = list.some(isOpen);
  drawRounds();
  if (list.length) drawItem(list[at], list);
  if (!list.some(isOpen)) drawEnd();
}

/** The next open item after this one, or the first; where there is none, the place stays. */
function goToOpen() {
  const list = items(round);
  const after = list.findIndex((item, i) => i > at && isOpen(item));
  const first = list.findIndex(isOpen);
  at = after >= 0 ? after : first >= 0 ? first : at;
}

function place(item) {
  return items(round).findIndex((other) => other.video.key === item.video.key && other.shot === item.shot);
}

/** Decide about what is seen: a key that comes before the pictures, or while a decision is on its way, does nothing. */
async function decide(decision) {
  const item = items(round)[at];
  if (!item || sending || !bothShown() || (decision === "remove" && round === 1)) return;
  sending = true;
  const body = { video: item.video.key, tracks: item.video.tracks, round, shot: item.shot, decision };
  try {
    const changed = await request("decisions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    videos = videos.map((video) => (video.key === changed.key ? changed : video));
    at = Math.max(0, place(item));
    if (decision !== null) goToOpen();
    say(null);
  } catch (error) {
    say(error);
  }
  sending = false;
  draw();
}

function move(step) {
  if (sending) return;
  at += step;
  draw();
}

function choose(number) {
  if (sending) return;
  round = number;
  at = 0;
  goToOpenFrom();
  draw();
}

/** As goToOpen, with the first item included. */
function goToOpenFrom() {
  const first = items(round).findIndex(isOpen);
  at = Math.max(0, first);
}

const KEYS = {
  a: () => decide("accept"),
  r: () => decide("remove"),
  x: () => decide("reject"),
  u: () => decide(null),
  n: () => { if (!sending) { goToOpen(); draw(); } },
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  1: () => choose(1),
  2: () => choose(2),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || !videos.length) return;
  event.preventDefault();
  act();
});
for (const [id, key] of Object.entries({
  accept: "a", remove: "r", reject: "x", undo: "u", open: "n", back: "ArrowLeft", next: "ArrowRight",
  "round-1": "1", "round-2": "2",
})) byId(id).addEventListener("click", KEYS[key]);

for (const id of ["reference", "shot"]) {
  byId(id).addEventListener("load", (event) => event.target.classList.remove("loading"));
  byId(id).addEventListener("error", () => say(new Error("A picture cannot be loaded. Load the page again.")));
}

try {
  videos = await request("videos");
  if (!items(1).some(isOpen) && items(2).length) round = 2;
  goToOpenFrom();
  draw();
} catch (error) {
  say(error);
}
