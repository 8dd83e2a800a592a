// The server's endpoints. Everything that fails is thrown as a ServerError whose message can be shown.

const STORED_KEY = "timeexpert.key";
let key = readKey();

function readKey() {
  try { return sessionStorage.getItem(STORED_KEY) ?? ""; } catch { return ""; }
}

export function useKey(value) {
  key = value;
  try { sessionStorage.setItem(STORED_KEY, value); } catch { /* storage is closed: the key lasts until a reload */ }
}

const headers = (more = {}) => (key ? { Authorization: `Bearer ${key}`, ...more } : more);

/** `status` is 0 where the server could not be reached; `retry_s` is how long it asks to wait, or null. */
export class ServerError extends Error {
  constructor(message, status, retry_s = null) {
    super(message);
    this.status = status;
    this.retry_s = retry_s;
  }

  get worthRetrying() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

const lost = () => new ServerError("The connection to the server was lost. Check that it is running.", 0);

function refusal(status, text, retryAfter) {
  let words = "";
  try {
    const body = JSON.parse(text);
    words = body.error?.message ?? (typeof body.detail === "string" ? body.detail : "");
  } catch { /* a proxy's page, say: its HTML is no message */ }
  const retry_s = /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) : null;
  return new ServerError(String(words) || `The server answered with status ${status}.`, status, retry_s);
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    throw error.name === "AbortError" ? error : lost();
  }
  if (response.ok) return response;
  throw refusal(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

async function readJson(path) {
  try {
    return await (await request(path)).json();
  } catch (error) {
    throw error instanceof SyntaxError ? new ServerError(`${path} did not answer with JSON.`, 502) : error;
  }
}

/** {name, drawsMasks} */
export async function servedModel() {
  const [row] = (await readJson("v1/models")).data;
  return { name: String(row.id), drawsMasks: row.draws_masks === true };
}

/** [{id, name, duration_s, prompts}] */
export const samples = () => readJson("samples");

export const contentPath = (video) =>
  `${video.kind === "sample" ? "samples" : "v1/files"}/${encodeURIComponent(video.id)}/content`;

/** What a player can open. It cannot send a key, so with one the whole video is fetched first. */
export async function playable(video) {
  if (!key) return contentPath(video);
  return URL.createObjectURL(await (await request(contentPath(video))).blob());
}

/** Upload a File; `progress` gets the share sent. Resolves to the file's id. */
export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest(); // fetch does not say how much it has sent
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", file, file.name);
    sender.open("POST", "v1/files");
    for (const [name, value] of Object.entries(headers())) sender.setRequestHeader(name, value);
    sender.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    sender.onerror = () => reject(lost());
    sender.onload = () => {
      try {
        if (sender.status >= 300) throw refusal(sender.status, sender.responseText, sender.getResponseHeader("Retry-After"));
        resolve(String(JSON.parse(sender.responseText).id));
      } catch (error) {
        reject(error instanceof ServerError ? error : new ServerError("The upload was not answered with JSON.", 502));
      }
    };
    sender.send(form);
  });
}

/** Best effort: a file that is gone already is as good as deleted. */
export const deleteFile = (id) =>
  request(`v1/files/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => undefined);

/** Ask; `onText` gets each piece as it is generated. Resolves to the fields of the last chunk. */
export async function ask({ video, prompt, task, includeExperts, includeTracks, signal, onText }) {
  const content = [{ type: "video_url", video_url: { url: video.id } }, { type: "text", text: prompt }];
  const body = { messages: [{ role: "user", content }], stream: true };
  if (task) body.task = task;
  if (includeExperts) body.include_experts = true;
  if (includeTracks) body.include_tracks = true;
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  let answer = null;
  let text = "";
  for await (const data of serverEvents(response.body)) {
    if (data === "[DONE]") {
      if (answer) return { content: text, ...answer };
      break;
    }
    const chunk = parse(data);
    if (chunk.error) throw new ServerError(String(chunk.error.message), 500);
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    if (choice.delta?.content) {
      text += choice.delta.content;
      onText(text);
    }
    if (Array.isArray(choice.events)) {
      const { delta, index, logprobs, ...fields } = choice;
      answer = fields;
    }
  }
  throw new ServerError("The answer broke off: the connection to the server was lost.", 0);
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServerError("The server sent a piece that is not JSON.", 502);
  }
}

/** The data of each server-sent event. */
async function* serverEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } catch (error) {
    throw error.name === "AbortError" || error instanceof ServerError ? error : lost();
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
