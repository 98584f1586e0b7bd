// What the page asks of its server.

/** An answer that refuses; `status` is HTTP's, or 0 where no answer came. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return the JSON of an answer. Throws Refused. */
export async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused("The server does not answer.", 0);
  }
  let said = null;
  try {
    said = await answer.json();
  } catch {
    throw new Refused("The server's answer broke off.", 0);
  }
  if (!answer.ok) throw new Refused(said?.error?.message ?? `Error ${answer.status}.`, answer.status);
  return said;
}

/** Return what `call` returns, tried again while the server is away. `waiting` is told of it. */
export async function patiently(call, waiting) {
  for (;;) {
    try {
      return await call();
    } catch (e) {
      if (!(e instanceof Refused) || (e.status !== 0 && e.status < 500)) throw e;
      waiting(e);
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
  }
}
