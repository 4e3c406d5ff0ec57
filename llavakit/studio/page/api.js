// @ts-check
// What the page asks the server, as functions.

/** An answer that is not what was wanted; the message is one line for people. */
export class Failed extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failed("The server does not answer. Is llavakit studio still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Failed(said.error ?? `The server said ${answer.status}.`, answer.status);
}

const asJson = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const about = async () => (await call("api/about")).json();

/** A picture file to the server; the name it is found by. @param {Blob} file */
export async function openPicture(file, title) {
  const options = { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file };
  return (await (await call(`api/pictures?title=${encodeURIComponent(title)}`, options)).json()).name;
}

async function decode(path, signal) {
  return createImageBitmap(await (await call(path, { signal })).blob());
}

/** One picture on the server. */
export class Picture {
  constructor(name) {
    this.name = name;
    this.base = `api/${name}`;
  }

  state = async () => (await call(this.base)).json();
  news = async () => (await call(`${this.base}/rev`)).json();
  forget = () => call(this.base, { method: "DELETE" });
  tileUrl = (rev, z, x, y, layer) => `${this.base}/tile/${rev}/${z}/${x}/${y}.webp${layer === null ? "" : `?layer=${layer}`}`;
  tile = (url, signal) => decode(url, signal);
  mask = (rev, z, x, y, candidate) => decode(`${this.base}/mask/${rev}/${z}/${x}/${y}.png${candidate === undefined ? "" : `?candidate=${candidate}`}`);
  thumbnailUrl = (rev) => `${this.base}/thumbnail/${rev}.webp`;
  variantUrl = (rev, number) => `${this.base}/variant/${rev}/${number}.webp`;
  exportUrl = (kind) => `${this.base}/export/${kind}`;

  /** A command; every answer is one, also a refusal. Rejects where nobody answers. */
  async send(item) {
    const answer = await fetch(`${this.base}/commands`, asJson(item));
    return { status: answer.status, body: await answer.json().catch(() => ({})) };
  }

  /** A question to the chat; `said` gets the pieces. The last event is the result. */
  async ask(text, said) {
    const answer = await call(`${this.base}/chat`, asJson({ text }));
    const reader = /** @type {ReadableStream} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) throw new Failed("The answer broke off.");
      const events = (rest + value).split("\n\n");
      rest = /** @type {string} */ (events.pop());
      for (const event of events) {
        const what = JSON.parse(event.slice("data: ".length));
        if (what.done) return what;
        said(what.text);
      }
    }
  }

  /** Something to be made by an engine; what is in line now. */
  want = async (id, command) => (await call(`${this.base}/jobs`, asJson({ id, command }))).json();
  unwant = async (id) => (await call(`${this.base}/jobs/${id}`, { method: "DELETE" })).json();

  stop = () => call(`${this.base}/chat/stop`, asJson({}));
}
