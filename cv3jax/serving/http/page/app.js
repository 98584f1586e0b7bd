// The page: what the buttons and keys do.

import { Refusal } from "./api.js";
import { by, careful, say } from "./dom.js";
import { expansionField } from "./expansion.js";
import { Grid } from "./gallery.js";
import { capabilities, Jobs } from "./jobs.js";
import { keyDialog } from "./keydialog.js";
import * as problem from "./problem.js";
import { again, enlargement, variations } from "./requests.js";
import { Settings } from "./settings.js";
import { Gallery, open as openStore } from "./store.js";
import { ownPicture } from "./upload.js";
import { Viewer } from "./viewer.js";
import { announced } from "./words.js";

const NARROW = "(max-width: 899px)";
const RETRY = 3000; // milliseconds until the server is looked for again

const gallery = new Gallery();
const jobs = new Jobs();
const settings = new Settings();
const groups = new Map(); // of jobs by the name of their group
let about = null; // what the server can do
let picked = null; // the picture that waits for another to be compared with

const viewer = new Viewer(by("viewer"), gallery, {
  cancel: (job) => jobs.cancel(job),
  retry: (job) => draw([job.asked], job.words, job.given),
  open,
  again: (picture) => repeat(picture, again(picture)),
  variations: (picture) => repeat(picture, variations(picture, about.max_n)),
  enlarge: (picture, to) => draw([enlargement(picture, to, about)], picture.prompt, picture.blob),
  pick,
  use: (picture) => {
    settings.use(picture);
    by("prompt").focus();
  },
  remove: (picture) => {
    const next = grid.beside(picture.id, 1) || grid.beside(picture.id, -1);
    gallery.remove(picture.id);
    if (next) open(next);
    else viewer.empty(about);
  },
});
const grid = new Grid(by("gallery"), gallery, jobs, {
  open: (id) => (picked && picked.id !== id ? compare(picked, gallery.find(id)) : open(id)),
  follow: (job) => showGroup(job.group),
});
const askKey = keyDialog(connect);

/** Begin jobs together and show them. */
async function draw(requests, words, given = null) {
  problem.clear();
  pick(null);
  const group = `${Date.now()}-${Math.random()}`;
  by("draw").disabled = true;
  try {
    for (const asked of requests) await jobs.start(asked, { words, group, given });
  } catch (e) {
    refused(e, () => draw(requests.slice((groups.get(group) || []).length), words, given));
  }
  by("draw").disabled = false;
  if (!groups.has(group)) return;
  showGroup(group);
  if (matchMedia(NARROW).matches) by("viewer").scrollIntoView({ block: "start" });
}

function repeat(picture, asked) {
  return draw([asked], picture.prompt, picture.given);
}

function refused(e, retry = null) {
  if (!(e instanceof Refusal)) throw e;
  if (e.status === 401) askKey();
  problem.show(e, retry);
}

function showGroup(id) {
  viewer.group(id, groups.get(id));
  mark();
}

function open(id) {
  const found = gallery.find(id);
  if (found === null || about === null) return;
  viewer.picture(found, about);
  mark();
}

/** Wait for another picture to compare this one with; null waits no longer. */
function pick(picture) {
  picked = picture;
  by("pick").hidden = picture === null;
  document.body.classList.toggle("picking", picture !== null);
  if (picture === null) return;
  by("pick").scrollIntoView({ block: "nearest" });
  by("gallery").querySelector("[tabindex='0']")?.focus();
}

function compare(a, b) {
  pick(null);
  viewer.compare(a, b);
  mark();
  by("viewer").scrollIntoView({ block: "nearest" });
}

function mark() {
  const { kind, id, ids } = viewer.shown;
  if (kind === "group") {
    const names = groups.get(id).map((job) => `${job.id}.`);
    const all = [...grid.root.children].map((one) => one.dataset.id);
    grid.mark(all.filter((one) => names.some((name) => one.startsWith(name))));
  } else grid.mark(kind === "picture" ? [id] : ids || []);
}

jobs.addEventListener("change", ({ detail: job }) => {
  if (!groups.has(job.group)) groups.set(job.group, [job]);
  else if (!groups.get(job.group).includes(job)) groups.get(job.group).push(job);
  viewer.update(job);
  if (job.body) health(job.lost ? "bad" : "good", job.lost ? "not reachable" : "ready");
  grid.show();
  mark();
  document.title = jobs.open.size ? `Drawing ${jobs.open.size} – cv3jax` : "cv3jax";
  if (viewer.shown.kind !== "group" || viewer.shown.id !== job.group) return;
  if (job.body && jobs.open.has(job.id)) say(by("said"), announced(job.body));
  if (!groups.get(job.group).some((one) => jobs.open.has(one.id))) over(groups.get(job.group));
});
jobs.addEventListener("picture", async ({ detail }) => {
  const said = await gallery.add(detail.picture);
  if (said !== null) say(by("gallery-note"), said);
});
jobs.addEventListener("refused", ({ detail }) => refused(detail));
gallery.addEventListener("change", () => {
  grid.show();
  mark();
});

/** Show the pictures of jobs that are all over: the one, or two to compare. */
function over(done) {
  const made = done.map((job) => gallery.pictures.filter((one) => one.job === job.id));
  const pictures = made.flat();
  const { error, body } = done[0];
  say(by("said"), error ? error.message : body.state === "cancelled" ? "Cancelled" : "Done");
  if (done.length === 1 && pictures.length === 1 && done[0].body.n === 1) open(pictures[0].id);
  else if (done.length === 2 && made.every((one) => one.length === 1)) {
    compare(pictures[0], pictures[1]);
  }
}

by("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (about !== null && !by("draw").disabled) draw(settings.requests(), by("prompt").value);
});
by("composer").addEventListener("input", () => {
  if (about === null) return;
  settings.show();
  settings.keep();
});
const expansion = expansionField(settings, refused);
by("clear").replaceWith(
  careful("Remove all", "Really remove all?", async () => {
    await gallery.clear();
    viewer.empty(about);
  }, { class: "link", id: "clear", hidden: true }),
);
by("pick-leave").addEventListener("click", () => pick(null));

document.addEventListener("keydown", (event) => {
  if (by("key-dialog").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    by("composer").requestSubmit();
  } else if (event.key === "Escape") escape();
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") beside(event);
});

function escape() {
  if (picked !== null) return pick(null);
  if (expansion.stop()) return undefined;
  const shown = viewer.shown.kind === "group" ? groups.get(viewer.shown.id) : [];
  const open_ = shown.filter((job) => jobs.open.has(job.id));
  const newest = [...jobs.open.values()].slice(-1);
  for (const job of open_.length ? open_ : newest) jobs.cancel(job);
  return undefined;
}

function beside(event) {
  const typing = event.target.closest("input, textarea, select, summary");
  if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
  if (viewer.shown.kind !== "picture") return;
  const next = grid.beside(viewer.shown.id, event.key === "ArrowLeft" ? -1 : 1);
  if (next === null) return;
  event.preventDefault();
  open(next);
  by("viewer").focus({ preventScroll: true });
}

function health(state, text) {
  by("health").dataset.state = state;
  say(by("health"), text);
}

/** Ask the server what it can do, until it answers. */
async function connect() {
  try {
    about = await capabilities();
  } catch (e) {
    if (!(e instanceof Refusal)) throw e;
    health("bad", e.status === 401 ? "key needed" : "not reachable");
    if (e.status === 401) askKey();
    else setTimeout(connect, RETRY);
    return;
  }
  problem.clear();
  jobs.model = about.model;
  settings.fill(about);
  say(by("model"), about.model);
  health("good", "ready");
  by("draw").disabled = false;
  ownPicture(about, (file, to) => {
    if (!by("prompt").reportValidity()) return;
    draw([settings.enlargement(to)], by("prompt").value, file);
  });
  await jobs.resume();
  const newest = gallery.pictures[0];
  if (jobs.open.size) showGroup([...jobs.open.values()].pop().group);
  else if (newest) open(newest.id);
  else viewer.empty(about);
}

if (matchMedia(NARROW).matches) by("settings").open = false;
viewer.empty(null);
await openStore();
await gallery.load();
connect();
