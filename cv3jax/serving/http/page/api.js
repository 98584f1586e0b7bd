// The server: its addresses, the bearer key, and its errors in words.

const TITLES = {
  server_busy: "The server is busy",
  queue_full: "The server is busy",
  overloaded: "The server is busy",
  rate_limit_exceeded: "Too many requests",
  takes_too_long: "This would take too long",
  drawing_failed: "This picture was not drawn",
  prompt_too_long: "The prompt is too long",
  expansion_failed: "The prompt was not expanded",
  moderation_blocked: "Withheld",
  server_stopping: "The server is stopping",
  disk_full: "The server's disk is full",
  job_not_found: "The server no longer has this job",
  file_not_found: "The server no longer has this picture",
  invalid_api_key: "This server asks for a key",
  unreachable: "The server cannot be reached",
};

/** What the server, or the way to it, refused. */
export class Refusal extends Error {
  constructor(status, said, after = null) {
    super(said.message);
    this.status = status;
    this.code = said.code;
    this.param = said.param || null;
    this.after = after; // seconds after which it may succeed, or null
  }

  get title() {
    return TITLES[this.code] || (this.status >= 500 ? "The server failed" : "This cannot be drawn");
  }
}

let key = stored(sessionStorage) || stored(localStorage) || "";

function stored(storage) {
  try {
    return storage.getItem("key");
  } catch {
    return null;
  }
}

/** Return whether a key is sent. */
export const hasKey = () => key !== "";

/** Use a key from now on; `keep` is whether after this tab too. */
export function useKey(given, keep) {
  key = given;
  try {
    sessionStorage.setItem("key", given);
    if (keep) localStorage.setItem("key", given);
    else localStorage.removeItem("key");
  } catch {
    // a browser that keeps nothing asks again
  }
}

/** Return what the server answers. Addresses are relative, so that a proxy may have a folder. */
export async function ask(path, { method = "GET", json, form, signal, headers = {} } = {}) {
  const sent = { ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  const body = json === undefined ? form : JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body, signal, cache: "no-store" });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Refusal(0, { message: "Is it running? Is this device online?", code: "unreachable" });
  }
  if (answer.ok) return answer;
  let said = null;
  try {
    said = (await answer.json()).error;
  } catch {
    // a proxy's page
  }
  const after = Number(answer.headers.get("Retry-After")) || null;
  const plain = { message: `It answered ${answer.status} ${answer.statusText}`.trim(), code: "" };
  throw new Refusal(answer.status, said || plain, after);
}

/** Return the answer's JSON. */
export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

/** Return a picture's bytes by the address that the server gave. */
export async function picture(url) {
  return (await ask(`v1/files/${url.split("/").pop()}`)).blob();
}

/** Return the bytes of the base's own picture of one of a job's pictures; null without one. */
export async function baseOf(job, index) {
  try {
    return await (await ask(`v1/jobs/${job}/base/${index}`)).blob();
  } catch (e) {
    if (e.status === 404) return null;
    throw e;
  }
}
