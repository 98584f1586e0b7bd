// A job while it is drawn: each picture's preview, the base beside it, and how far it is.

import { button, el, say } from "./dom.js";
import { place, progress, sentence, shares, shortStep } from "./words.js";

const OVER = { cancelled: "Cancelled", failed: "Failed", done: "Done" };

/** What the viewer shows of one job. `actions` has cancel, retry and open. */
export class JobView {
  constructor(job, gallery, actions, title = null) {
    this.job = job;
    this.gallery = gallery;
    this.actions = actions;
    this.tiles = [];
    this.bar = el("div", { class: "bar", role: "progressbar", "aria-label": "Progress" });
    this.status = el("p", { class: "status" }, "Looking for the job");
    this.cancel = button("Cancel", () => actions.cancel(this.job));
    this.again = button("Draw it after all", () => actions.retry(this.job), { hidden: true });
    this.problem = el("div", { class: "error", hidden: true });
    this.grid = el("div", { class: "tiles" });
    const heading = title && el("p", { class: "side" }, title);
    this.foot = el("div", { class: "row status-row" }, this.status, this.cancel, this.again);
    const words = el("p", { class: "words" }, job.words);
    const about = el("div", { class: "about" }, words, this.bar, this.foot, this.problem);
    this.root = el("section", { class: "job" }, heading, this.grid, about);
    this.update();
  }

  update() {
    const { body, lost, error } = this.job;
    if (error !== null) this.fail(error);
    if (body === null) return;
    if (this.tiles.length === 0) this.build(body);
    for (const [at, picture] of body.pictures.entries()) this.draw(body, picture, this.tiles[at]);
    const over = OVER[body.state];
    say(this.status, over || progress(body, lost));
    this.cancel.hidden = Boolean(over) || error !== null;
    this.root.classList.toggle("lost", lost);
    this.grid.hidden = body.state !== "done" && Boolean(over) && this.job.kept.size === 0;
    this.again.hidden = body.state !== "cancelled";
    this.fillBar(body);
  }

  build(body) {
    const [width, height] = body.size.split("x").map(Number);
    this.root.style.setProperty("--ratio", `${width} / ${height}`);
    this.root.classList.add(body.n === 1 ? "one" : "many");
    for (const picture of body.pictures) {
      const image = el("img", { alt: "", hidden: true });
      const base = el("img", { class: "inset", alt: "Base picture", hidden: true });
      const text = el("figcaption");
      const label = `Picture ${picture.index + 1}`;
      const given = { type: "button", "aria-label": label, disabled: true };
      const open = el("button", given, image);
      open.addEventListener("click", () => this.actions.open(`${this.job.id}.${picture.index}`));
      const root = el("figure", { class: "tile waiting" }, open, base, text);
      this.tiles.push({ root, image, base, text, open });
      this.grid.append(root);
    }
    for (const share of shares(body)) {
      const part = el("span", { class: "part" }, el("i"), el("b", {}, share.name));
      part.style.setProperty("--weight", share.weight);
      this.bar.append(part);
    }
  }

  draw(body, picture, tile) {
    const kept = this.gallery.find(`${this.job.id}.${picture.index}`);
    const source = kept ? this.gallery.url(kept) : picture.preview;
    if (source && tile.image.src !== source) tile.image.src = source;
    tile.image.hidden = !source;
    tile.image.alt = kept ? this.job.words : "Preview";
    tile.root.classList.toggle("waiting", !source && !OVER[body.state]);
    tile.root.classList.toggle("preview", !kept && picture.stage !== null);
    tile.root.dataset.stage = kept ? "done" : place(body, picture)?.stage || "waiting";
    tile.open.disabled = !kept;
    const base = this.job.bases.get(picture.index);
    const inset = Boolean(base) && !kept && picture.stage === "relay";
    if (inset && !tile.base.src) tile.base.src = URL.createObjectURL(base);
    tile.base.hidden = !inset;
    const withheld = "Withheld by the server's safety check";
    const how = kept || OVER[body.state] ? "" : shortStep(body, picture);
    say(tile.text, picture.blocked ? withheld : how);
    tile.text.className = picture.blocked ? "" : "step";
  }

  fillBar(body) {
    const all = shares(body);
    let done = 0;
    let total = 0;
    for (const [at, share] of all.entries()) {
      this.bar.children[at].style.setProperty("--done", share.done);
      done += share.done * share.weight;
      total += share.weight;
    }
    this.bar.setAttribute("aria-valuenow", Math.round((100 * done) / total));
    this.bar.hidden = body.state === "failed" || body.state === "cancelled";
  }

  fail(error) {
    this.problem.hidden = false;
    const again = button("Try again", () => this.actions.retry(this.job));
    this.problem.replaceChildren(el("b", {}, error.title), el("p", {}, sentence(error.message)), again);
    this.problem.setAttribute("role", "alert");
    this.foot.hidden = true;
  }
}
