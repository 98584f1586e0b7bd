// Jobs at the server: begun, looked at until they are over, cancelled, and found after a reload.

import { ask, askJson, baseOf, picture as fetched, Refusal } from "./api.js";
import * as store from "./store.js";

// milliseconds between two looks at a job; one that is done soon is looked at more often
const LEAST = 120;
const MOST = 1000;
const HIDDEN = 2000; // while nobody sees the page
const LOST = 5000; // at most, where the server does not answer
const LOOKS = 16; // while a job is drawn

/** Return the body of a request to enlarge a picture. */
function formOf(asked, given) {
  const form = new FormData();
  form.append("image", given, "picture.png");
  for (const [name, value] of Object.entries(asked)) {
    form.append(name, Array.isArray(value) ? JSON.stringify(value) : String(value));
  }
  return form;
}

/**
 * The jobs of this page. Emits "change" with a job that moved, "picture" with a finished one and
 * its job, and "refused" with what the server refused.
 *
 * A job is {id, at, words, asked, group, given, body, lost, error, bases, kept}: `words` is the
 * prompt as it was typed, `group` names the jobs that were begun together, and `given` is the
 * picture that is enlarged, or null.
 */
export class Jobs extends EventTarget {
  constructor() {
    super();
    this.open = new Map();
    this.model = "";
  }

  /** Begin a job and return it. Raises Refusal. */
  async start(asked, { words, group, given = null }) {
    const headers = { "Idempotency-Key": crypto.randomUUID?.() || `${Date.now()}-${Math.random()}` };
    const sent = given === null ? { json: asked } : { form: formOf(asked, given) };
    const body = await askJson("v1/jobs", { method: "POST", headers, ...sent });
    const kept = { id: body.id, at: Date.now(), words, asked, group, given };
    await store.put("jobs", kept).catch(() => {}); // then it is not found after a reload
    return this.follow(kept, body);
  }

  /** Follow the jobs that were open when the page was closed. */
  async resume() {
    for (const kept of await store.all("jobs")) {
      if (!this.open.has(kept.id)) this.follow(kept, null);
    }
  }

  follow(kept, body) {
    const job = { ...kept, body, lost: false, error: null, bases: new Map(), kept: new Set() };
    this.open.set(job.id, job);
    this.tell("change", job);
    this.watch(job, 0);
    return job;
  }

  /** Cancel a job before its next step. */
  async cancel(job) {
    try {
      await this.take(job, await askJson(`v1/jobs/${job.id}`, { method: "DELETE" }));
    } catch (e) {
      this.refused(e);
    }
  }

  async watch(job, failures) {
    const wait = failures ? Math.min(500 * 2 ** failures, LOST) : this.pause(job);
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (!this.open.has(job.id)) return;
    try {
      await this.take(job, await askJson(`v1/jobs/${job.id}`));
      failures = 0;
    } catch (e) {
      if (!(e instanceof Refusal)) throw e;
      if (e.status === 404) {
        this.end(job, e);
        return;
      }
      failures += 1;
      job.lost = e.status === 0;
      this.tell("change", job);
      if (e.status === 401) this.refused(e);
    }
    if (this.open.has(job.id)) this.watch(job, failures);
  }

  pause(job) {
    if (job.body === null) return 0;
    if (document.hidden) return HIDDEN;
    const each = (1000 * (job.body.eta_seconds || 1)) / LOOKS;
    return Math.min(Math.max(each, LEAST), MOST) * Math.max(this.open.size, 1);
  }

  /** Take over what the server says of a job. */
  async take(job, body) {
    job.lost = false;
    for (const one of body.pictures) {
      if (one.base && !job.bases.has(one.index)) {
        job.bases.set(one.index, await baseOf(job.id, one.index));
      }
      if (one.url && !job.kept.has(one.index)) {
        const made = await this.finished(job, body, one);
        job.kept.add(one.index);
        this.tell("picture", { picture: made, job });
      }
    }
    job.body = body;
    if (["done", "failed", "cancelled"].includes(body.state)) {
      const said = body.state === "failed" ? body.error : null;
      this.end(job, said && new Refusal(500, said));
    } else {
      this.tell("change", job);
    }
  }

  async finished(job, body, one) {
    return {
      id: `${job.id}.${one.index}`,
      job: job.id,
      group: job.group,
      index: one.index,
      at: job.at,
      model: this.model,
      kind: body.kind,
      prompt: job.words,
      text: body.revised_prompt || body.prompt,
      seed: one.seed,
      size: body.size,
      settings: body.settings,
      loras: body.loras,
      format: body.output_format,
      blob: await fetched(one.url),
      base: job.bases.get(one.index) || null,
      given: job.given,
    };
  }

  end(job, error) {
    job.error = error;
    this.open.delete(job.id);
    store.remove("jobs", job.id).catch(() => {});
    this.tell("change", job);
  }

  refused(e) {
    if (!(e instanceof Refusal)) throw e;
    this.tell("refused", e);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** Return a prompt as the server's language model writes it out. Raises Refusal. */
export function expand(prompt, signal) {
  return askJson("v1/expansions", { method: "POST", json: { prompt }, signal });
}

/** Return what the server can do. Raises Refusal. */
export async function capabilities() {
  return (await ask("v1/capabilities")).json();
}
