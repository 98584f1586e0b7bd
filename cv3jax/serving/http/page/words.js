// Numbers, times and states as people read them.

/** Return seconds in words: 8 s, 2 min, 1 h 5 min. */
export function duration(seconds) {
  const whole = Math.max(Math.ceil(seconds), 1);
  if (whole < 90) return `${whole}\u00a0s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes}\u00a0min`;
  return `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}

/** Return a size such as 128x64 with its proper sign. */
export const size = (text) => text.replace("x", "\u00a0×\u00a0");

/** Return "1 picture", "2 pictures". */
export const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Return a number without needless zeros. */
export const number = (value) => String(Math.round(value * 1000) / 1000);

/** Return where a picture is: its stage, relay pass, step and steps; null before its first step. */
export function place(body, picture) {
  const { stage, relay_pass, step: done, steps } = picture;
  if (stage === null) return null;
  // where the base's own picture is there, the relay has begun
  if (stage === "base" && picture.base) {
    return { stage: "relay", pass: 1, step: 0, steps: body.settings.relay.steps };
  }
  return { stage, pass: relay_pass, step: done, steps };
}

/** Return the name of a stage of a job: its base, or the relay to a size. */
function stageName(body, { stage, pass }) {
  return stage === "base" ? "base picture" : `relay to ${size(body.sizes[pass])}`;
}

/** Return how far one picture of a job is. */
export function step(body, picture) {
  if (picture.state === "done") return picture.blocked ? "withheld" : "done";
  if (picture.state === "drawn") return "saving";
  const at = place(body, picture);
  if (at === null) return body.state === "accepted" ? "waiting" : "begins";
  const name = stageName(body, at);
  return at.step === 0 ? `${name} begins` : `${name}, step ${at.step} of ${at.steps}`;
}

/** Return how far one picture of a job is, in few words. */
export function shortStep(body, picture) {
  const at = place(body, picture);
  const drawn = ["done", "drawn"].includes(picture.state);
  return at === null || drawn ? step(body, picture) : `${at.stage} ${at.step}/${at.steps}`;
}

/** Return the line that says how far a job is. */
export function progress(body, lost) {
  if (lost) return "The connection is lost; trying again";
  const left = body.eta_seconds === null ? "" : `, about ${duration(body.eta_seconds)} left`;
  if (body.state === "accepted") {
    const ahead = body.ahead ? `${counted(body.ahead, "picture")} before it` : "begins soon";
    return `Waiting: ${ahead}${left}`;
  }
  const open = body.pictures.filter((one) => one.state !== "done");
  const done = body.n - open.length;
  const now = open.length ? step(body, open[0]) : "done";
  return sentence(body.n > 1 ? `${done} of ${body.n} done; ${now}` : now) + left;
}

/** Return a text with a large first letter. */
export const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** Return what is announced of a job: a change of stage, and not each step. */
export function announced(body) {
  if (body.state === "accepted") return "Waiting";
  const open = body.pictures.find((one) => one.state !== "done");
  const at = open && place(body, open);
  return at ? `Drawing the ${stageName(body, at)}` : "";
}

/** Return the shares of a job's stages that are done: [{name, weight, done}] of each stage. */
export function shares(body) {
  const passes = body.sizes.length - 1;
  const names = body.settings.base ? ["base"] : [];
  for (let pass = 1; pass <= passes; pass += 1) names.push("relay");
  let pass = 0;
  return names.map((name) => {
    pass = name === "relay" ? pass + 1 : 0;
    const each = body.pictures.map((one) => shareOf(body, one, pass));
    const done = each.reduce((sum, share) => sum + share, 0) / each.length;
    return { name, weight: body.settings[name].steps, done };
  });
}

function shareOf(body, picture, pass) {
  if (picture.state === "done" || picture.state === "drawn") return 1;
  const at = place(body, picture);
  if (at === null || at.pass < pass) return 0;
  return at.pass > pass ? 1 : at.step / at.steps;
}

/** Return [name, value] of what a picture was drawn with. */
export function facts(picture) {
  const rows = [
    ["Size", size(picture.size)],
    ["Seed", String(picture.seed)],
  ];
  for (const name of ["base", "relay"]) {
    const stage = picture.settings[name];
    if (!stage) continue;
    const title = sentence(name);
    rows.push([`${title} steps`, String(stage.steps)]);
    rows.push([`${title} guidance`, number(stage.guidance)]);
    if (stage.eta) rows.push([`${title} noise`, number(stage.eta)]);
  }
  for (const { name, weight } of picture.loras || []) rows.push([name, `× ${number(weight)}`]);
  return rows;
}

/** Return a name for a picture's file. */
export function fileName(picture) {
  const words = picture.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["picture"];
  const kind = { jpeg: "jpg" }[picture.format] || picture.format;
  return `${words.join("-").slice(0, 48)}-${picture.seed}.${kind}`;
}
