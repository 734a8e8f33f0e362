// Requests to the service. Errors arrive as application/problem+json and become ServiceError with a sentence.

const TOKEN = "talk2dino-token";
const base = new URL(".", document.baseURI);

export class ServiceError extends Error {
  constructor(status, problem) {
    super([problem.detail ?? problem.title ?? `HTTP ${status}`, problem.hint].filter(Boolean).join(" "));
    this.status = status;
    this.problem = problem;
  }
}

/** Asks the person for the token; set by the page. */
export const asking = { token: async () => null };

export const address = (path) => new URL(path, base).href;

const PATIENCE = 3; // how often a full service is asked again

async function send(path, options = {}, asked = false, again = 0) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(address(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, { title: "unreachable" });
  }
  if (response.status === 401) {
    const given = await asking.token(asked || Boolean(token));
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      return send(path, options, true, again);
    }
  }
  if (response.status === 503 && again < PATIENCE && response.headers.has("Retry-After")) {
    await new Promise((done) => setTimeout(done, 1000 * Math.min(5, Number(response.headers.get("Retry-After")) || 1)));
    options.signal?.throwIfAborted();
    return send(path, options, asked, again + 1);
  }
  if (!response.ok) throw new ServiceError(response.status, await problemOf(response));
  return response;
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: `${response.status} ${response.statusText}` };
  }
}

const asJson = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

/** {status: "ready"} or {status: "loading", step}; null if the service cannot be reached. */
export async function readiness() {
  try {
    const response = await fetch(address("ready"));
    return await response.json();
  } catch {
    return null;
  }
}

export const models = async () => (await send("v1/models")).json();
export const methods = async () => (await send("v1/methods")).json();
export const examples = async () => (await send("v1/examples")).json();
export const file = async (path) => (await send(path)).blob();

export async function encode(blob, name) {
  const form = new FormData();
  form.append("image", blob, name || "image");
  return (await send("v1/images", { method: "POST", body: form })).json();
}

export const features = async (id) => (await send(`v1/images/${id}/features`)).arrayBuffer();
export const picture = async (id) => (await send(`v1/images/${id}/picture`)).blob();
export const forget = (id) => send(`v1/images/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});

/** Segment an encoded image; JSON unless another format is asked for. */
export async function segment(id, options, signal) {
  const response = await send(`v1/images/${id}/segment`, asJson(options, signal));
  return options.format && options.format !== "json" ? response.blob() : response.json();
}

/** Words to vectors: {names, vectors: Float32Array[], palette, notes, understood}. */
export async function words(prompts) {
  const answer = await (await send("v1/text", asJson({ prompts }))).json();
  const bytes = Uint8Array.from(atob(answer.embeddings), (letter) => letter.charCodeAt(0));
  const all = new Float32Array(bytes.buffer);
  const vectors = answer.names.map((_, n) => all.slice(n * answer.dim, (n + 1) * answer.dim));
  return { ...answer, vectors };
}
