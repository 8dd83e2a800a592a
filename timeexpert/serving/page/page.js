// The page: a video, questions about it, their answers. What is drawn follows from `state`.

import { eventItem, notesOn, timingsOf } from "./answer.js";
import * as client from "./client.js";
import { byId, clock, element, percent } from "./dom.js";
import { drawExperts } from "./experts.js";
import { download, stem, toCsv, toJson, toSrt } from "./exports.js";
import { isAnswer, readHistory, writeHistory } from "./history.js";
import { MaskOverlay } from "./masks.js";
import { COLOURS, Timeline } from "./timeline.js";

const SUGGESTIONS = {
  "": ["When does the action begin and end?", "What happens, and when?"],
  moment_retrieval: ["When does the person enter?", "When does the red circle grow?"],
  dense_captioning: ["Describe every event with its time.", "What happens, and when?"],
  highlight_detection: ["Find the highlights and score them.", "How salient is each moment?"],
  action_segmentation: ["List the actions one after another.", "Into which steps does this fall?"],
  general: ["What is shown?", "How often does it happen?"],
  referring_segmentation: ["Segment the person.", "Where is the red circle while it grows?"],
};

const state = {
  model: "",
  drawsMasks: false, // the model
  video: null, // {key, kind: "upload" or "sample", id, name, prompts, file, uploading}
  entries: readHistory(),
  selected: null, // the id of an entry
  asking: null, // the AbortController of the question under way
};

const player = byId("player");
const timeline = new Timeline(byId("timeline"), byId("tip"), { seek, pick });
const overlay = new MaskOverlay(byId("masks"), player, byId("mask-bar"));

const ofThisVideo = () => state.entries.filter((entry) => entry.video.key === state.video?.key).reverse();
const selectedEntry = () => state.entries.find((entry) => entry.id === state.selected);

// -- video

function openFile(file) {
  const video = {
    key: `${file.name}|${file.size}|${file.lastModified}`, kind: "upload", id: "", name: file.name, prompts: [], file,
  };
  open(video, URL.createObjectURL(file));
  startUpload(video);
}

function startUpload(video) {
  const say = (words) => { if (state.video === video) byId("upload").textContent = words; };
  say("uploading");
  video.uploading = client.upload(video.file, (share) => say(`uploading, ${percent(share)}`)).then(
    (id) => {
      video.id = id;
      say("uploaded");
    },
    (error) => {
      say("not uploaded");
      video.uploading = null;
      throw error;
    },
  );
  video.uploading.catch((error) => state.video === video && showProblem(error, () => startUpload(video)));
}

async function openStored(video) {
  open(video, "");
  try {
    const source = await client.playable(video);
    if (state.video === video) player.src = source;
  } catch (error) {
    if (state.video === video) playerNote(error.message);
  }
}

function open(video, source) {
  state.asking?.abort();
  if (player.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
  Object.assign(state, { video, selected: null });
  playerNote("");
  showProblem(null);
  byId("upload").textContent = "";
  byId("video-name").textContent = video.name;
  byId("stage").hidden = false;
  if (byId("source").contains(document.activeElement)) byId("video-name").focus();
  byId("source").hidden = true;
  if (source) player.src = source;
  else player.removeAttribute("src");
  player.load(); // without it, the last video stays
  const rows = ofThisVideo();
  pick(rows.at(-1)?.id ?? null, null);
  drawSuggestions();
}

function playerNote(words) {
  byId("player-note").textContent = words;
  byId("player-note").hidden = !words;
}

player.addEventListener("error", () => {
  if (!player.getAttribute("src")) return;
  playerNote(state.video.kind === "upload" && !state.video.file
    ? "The server no longer holds this video. Open it again to play it or to ask more."
    : "This browser cannot play this file. It can be asked about all the same.");
});
player.addEventListener("loadedmetadata", drawTimeline);
for (const name of ["timeupdate", "seeking", "seeked"]) player.addEventListener(name, () => showTime(player.currentTime));
player.addEventListener("play", function follow() {
  showTime(player.currentTime);
  if (!player.paused) requestAnimationFrame(follow);
});

function showTime(time_s) {
  timeline.showTime(time_s);
  overlay.draw(time_s);
}

function seek(time_s) {
  if (player.readyState > 0) player.currentTime = time_s;
  showTime(time_s);
}

byId("other").addEventListener("click", () => {
  byId("source").hidden = false;
  byId("file").focus();
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) openFile(file);
  event.target.value = ""; // the same file may be chosen again
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const name of ["dragleave", "drop"]) {
  addEventListener(name, (event) => {
    if (name === "drop" || event.relatedTarget === null) document.body.classList.remove("dragging");
  });
}
addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) openFile(file);
});

// -- asking

async function ask() {
  const prompt = byId("prompt").value.trim();
  if (state.asking) return;
  if (!state.video) return showProblem(new Error("Choose a video first."));
  if (!prompt) return showProblem(new Error("Write a question first."));
  const { video } = state;
  const asking = new AbortController();
  state.asking = asking;
  const task = byId("task").value;
  showProblem(null);
  showAsking(prompt);
  try {
    const wanted = { includeExperts: byId("include-experts").checked, includeTracks: state.drawsMasks };
    const answer = await answerTo(video, { prompt, task, ...wanted, signal: asking.signal });
    keep(video, prompt, task, answer);
  } catch (error) {
    if (state.video !== video) return;
    drawAnswer();
    if (error.name === "AbortError") say("Stopped.");
    else showProblem(error, error.worthRetrying ? ask : null);
  } finally {
    state.asking = null;
    drawBusy();
  }
}

async function answerTo(video, question) {
  if (video.file && !video.id && !video.uploading) startUpload(video);
  const stopped = new Promise((_, reject) => question.signal.addEventListener("abort", () => reject(question.signal.reason)));
  await Promise.race([video.uploading, stopped]);
  const onText = (text) => { byId("stream").textContent = text; };
  const answer = await askOnce(video, { ...question, onText });
  if (!isAnswer(answer)) throw new client.ServerError("The answer lacks what this page draws: is the server of another version?", 502);
  return answer;
}

/** Uploads expire; one that is still at hand is sent again. */
async function askOnce(video, question) {
  try {
    return await client.ask({ video, ...question });
  } catch (error) {
    if (error.status !== 404 || !video.file) throw error;
    startUpload(video);
    await video.uploading;
    return client.ask({ video, ...question });
  }
}

function keep(video, prompt, task, answer) {
  const { key, kind, id, name } = video;
  const asked_at = Date.now();
  const entry = { id: `${asked_at}-${Math.random()}`, video: { key, kind, id, name }, prompt, task, model: state.model, asked_at, answer };
  state.entries = writeHistory([entry, ...state.entries]);
  if (state.video === video) pick(entry.id, null);
  drawHistory();
  const count = answer.events.length;
  say(count === 1 ? "1 event" : `${count} events`);
}

const say = (words) => { byId("status").textContent = words; };

function showAsking(prompt) {
  byId("answer").hidden = false;
  byId("asked").textContent = prompt;
  for (const id of ["notes", "events", "experts"]) byId(id).replaceChildren();
  byId("timings").textContent = "";
  byId("export").hidden = true;
  byId("stream").textContent = "";
  byId("stream").hidden = false;
  say("answering");
  drawBusy();
}

function drawBusy() {
  byId("send").setAttribute("aria-disabled", state.asking !== null); // disabled, it would lose the focus
  byId("stop").hidden = state.asking === null;
  byId("answer").setAttribute("aria-busy", state.asking !== null);
}

let countdown = 0;

/** Say what went wrong; with `again`, offer to try it once more, counting down where the server asked to wait. */
function showProblem(error, again = null) {
  clearInterval(countdown);
  const box = byId("problem");
  box.hidden = error === null;
  box.replaceChildren();
  if (error === null) return;
  box.append(element("p", {}, error.message));
  if (error.status === 401) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  if (!again) return;
  const button = element("button", { type: "button", on: { click: () => { byId("prompt").focus(); showProblem(null); again(); } } }, "Try again");
  box.append(button);
  let left_s = error.retry_s ?? 0;
  if (left_s <= 0) return;
  const wait = element("span", { class: "muted", "aria-live": "off" });
  const tick = () => {
    wait.textContent = left_s > 0 ? ` The server asks to wait ${left_s} s.` : "";
    if (left_s-- <= 0) clearInterval(countdown);
  };
  box.append(wait);
  tick();
  countdown = setInterval(tick, 1000);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
byId("stop").addEventListener("click", () => {
  state.asking?.abort();
  byId("prompt").focus();
});
byId("task").addEventListener("change", drawSuggestions);

function drawSuggestions() {
  const prompts = [...(state.video?.prompts ?? []), ...SUGGESTIONS[byId("task").value]].slice(0, 4);
  byId("suggestions").replaceChildren(...prompts.map((prompt) => chip(prompt, () => {
    byId("prompt").value = prompt;
    byId("prompt").focus();
  })));
}

const chip = (words, click, ...more) =>
  element("li", {}, element("button", { type: "button", class: "chip", on: { click } }, words, ...more));

// -- answers

function pick(entryId, eventIndex) {
  if (entryId !== state.selected || eventIndex === null) {
    state.selected = entryId;
    drawAnswer();
    drawTimeline();
  }
  byId("events").querySelectorAll("button").forEach((button, i) => button.classList.toggle("picked", i === eventIndex));
}

function colourOf(entry) {
  return ofThisVideo().indexOf(entry) % COLOURS;
}

function drawTimeline() {
  const rows = ofThisVideo();
  const durations = [player.readyState > 0 ? player.duration : 0, ...rows.map((row) => row.answer.duration_s)].filter(Number.isFinite);
  const stops = () => [...byId("timeline").querySelectorAll("button, [role=slider]")];
  const focused = stops().indexOf(document.activeElement);
  timeline.draw(rows.map((row, i) => ({ ...row, colour: i % COLOURS })), state.selected, Math.max(0, ...durations));
  stops()[focused]?.focus();
}

function drawAnswer() {
  const entry = selectedEntry();
  overlay.use(entry?.answer.tracks ?? []);
  byId("answer").hidden = !entry;
  byId("stream").hidden = true;
  say("");
  if (!entry) return;
  const { answer, prompt } = entry;
  byId("answer").style.setProperty("--colour", `var(--row-${colourOf(entry)})`);
  byId("asked").textContent = prompt;
  const forgotten = entry.masksForgotten ? ["The masks of this answer are no longer stored. Ask again to see them."] : [];
  byId("notes").replaceChildren(...[...notesOn(answer), ...forgotten].map((words) => element("p", { class: "note" }, words)));
  byId("events").replaceChildren(...answer.events.map((event) => eventItem(event, answer.duration_s, seek)));
  if (!answer.events.length) {
    byId("stream").textContent = answer.content || "No event was found.";
    byId("stream").hidden = false;
  }
  byId("experts").replaceChildren(...drawExperts(answer.experts));
  byId("export").hidden = false;
  byId("timings").textContent = timingsOf(answer);
}

const WRITERS = { json: [toJson, "application/json"], csv: [toCsv, "text/csv"], srt: [toSrt, "application/x-subrip"] };

byId("export").addEventListener("click", (event) => {
  const { format } = event.target.dataset;
  if (!format) return;
  const entries = byId("export-all").checked ? ofThisVideo() : [selectedEntry()];
  const [write, type] = WRITERS[format];
  download(`${stem(entries[0].video.name)}.${format}`, type, write(entries));
});

// -- history

function drawHistory() {
  byId("history").hidden = !state.entries.length;
  byId("history-list").replaceChildren(...state.entries.map((entry) => element("li", {}, element("button", {
    type: "button", on: { click: () => reopen(entry) },
  }, element("span", { class: "what" }, entry.prompt), element("span", { class: "muted small" },
    `${entry.video.name} · ${new Date(entry.asked_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`)))));
}

function reopen(entry) {
  if (state.video?.key !== entry.video.key) openStored({ ...entry.video, prompts: [] });
  pick(entry.id, null);
  byId("prompt").value = entry.prompt;
  byId("task").value = entry.task;
}

byId("forget").addEventListener("click", () => {
  const uploads = new Set(state.entries.filter((entry) => entry.video.kind === "upload").map((entry) => entry.video.id));
  uploads.forEach(client.deleteFile);
  state.entries = writeHistory([]);
  pick(null, null);
  drawHistory();
  byId("prompt").focus();
});

// -- start

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.useKey(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  showProblem(null);
  greet();
  if (state.video?.file && !state.video.id) startUpload(state.video);
});

async function greet() {
  try {
    const served = await client.servedModel();
    Object.assign(state, { model: served.name, drawsMasks: served.drawsMasks });
    byId("model").textContent = state.model;
    byId("segmentation").hidden = byId("segmentation").disabled = !served.drawsMasks;
    const rows = await client.samples();
    byId("samples").hidden = !rows.length;
    byId("sample-list").replaceChildren(...rows.map((row) => chip(String(row.name), () => {
      const prompts = (row.prompts ?? []).map(String);
      openStored({ key: `sample:${row.id}`, kind: "sample", id: String(row.id), name: String(row.name), prompts });
    }, element("span", { class: "muted" }, ` ${clock(Number(row.duration_s), Number(row.duration_s))}`))));
  } catch (error) {
    showProblem(error, error.worthRetrying ? greet : null);
  }
}

drawSuggestions();
drawHistory();
greet();
