// The grid of pictures, newest first, with those before it that are being drawn.

import { by, el, say } from "./dom.js";
import { MOST, newestFirst } from "./store.js";
import { counted, shares, step } from "./words.js";

/** The grid. `open` is called with a picture's id, `follow` with a job. */
export class Grid {
  constructor(root, gallery, jobs, { open, follow }) {
    this.root = root;
    this.gallery = gallery;
    this.jobs = jobs;
    this.open = open;
    this.follow = follow;
    this.items = new Map(); // of pictures by id
    this.chosen = [];
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show the pictures and the open jobs as they are now. */
  show() {
    const pending = [...this.jobs.open.values()].filter((job) => job.body !== null);
    const waiting = pending.flatMap((job) =>
      job.body.pictures
        .filter((one) => !this.gallery.find(`${job.id}.${one.index}`))
        .map((one) => ({ at: job.at, index: one.index, item: this.waiting(job, one) })),
    );
    const kept = this.gallery.pictures.map((one) => ({ ...one, item: this.item(one) }));
    this.place([...waiting, ...kept].sort(newestFirst).map((one) => one.item));
    const count = this.gallery.pictures.length;
    say(by("count"), count ? counted(count, "picture") : "");
    by("clear").hidden = count === 0;
    const note = count ? "Kept in this browser alone." : "Finished pictures appear here.";
    say(by("gallery-note"), this.gallery.full ? `The newest ${MOST} are kept.` : note);
    this.mark(this.chosen);
  }

  item(picture) {
    let made = this.items.get(picture.id);
    if (made === undefined) {
      const image = el("img", { src: this.gallery.url(picture), alt: "", loading: "lazy" });
      const given = { type: "button", class: "thumb", onclick: () => this.open(picture.id) };
      const label = `${picture.prompt}, seed ${picture.seed}`;
      made = el("li", {}, el("button", { ...given, "aria-label": label }, image));
      made.dataset.id = picture.id;
      this.items.set(picture.id, made);
    }
    return made;
  }

  waiting(job, picture) {
    const id = `${job.id}.${picture.index}`;
    let made = this.items.get(`waiting ${id}`);
    if (made === undefined) {
      const given = { type: "button", class: "thumb waiting", onclick: () => this.follow(job) };
      made = el("li", {}, el("button", given, el("img", { alt: "", hidden: true }), el("i")));
      made.dataset.id = id;
      this.items.set(`waiting ${id}`, made);
    }
    const [button, image] = [made.firstChild, made.querySelector("img")];
    if (picture.preview && image.src !== picture.preview) image.src = picture.preview;
    image.hidden = !picture.preview;
    const all = shares({ ...job.body, pictures: [picture] });
    const total = all.reduce((sum, one) => sum + one.weight, 0);
    const done = all.reduce((sum, one) => sum + one.weight * one.done, 0);
    button.style.setProperty("--done", done / total);
    button.setAttribute("aria-label", `${job.words}: ${step(job.body, picture)}`);
    return made;
  }

  /** Put items in their order without touching those that are in place, which may have focus. */
  place(items) {
    const wanted = new Set(items);
    for (const [name, one] of this.items) {
      if (wanted.has(one)) continue;
      one.remove();
      this.items.delete(name);
    }
    items.forEach((one, at) => {
      if (this.root.children[at] !== one) this.root.insertBefore(one, this.root.children[at] || null);
    });
  }

  /** Mark pictures as the ones that are shown, and make the first the one that Tab reaches. */
  mark(ids) {
    this.chosen = ids;
    const all = [...this.root.children];
    const first = all.find((one) => ids.includes(one.dataset.id)) || all[0];
    for (const one of all) {
      const chosen = ids.includes(one.dataset.id);
      one.firstChild.setAttribute("aria-current", String(chosen));
      one.firstChild.tabIndex = one === first ? 0 : -1;
    }
  }

  /** Return the id of the picture `by` places after one; null at an end. */
  beside(id, by_) {
    const at = this.gallery.pictures.findIndex((one) => one.id === id);
    const found = this.gallery.pictures[at === -1 ? 0 : at + by_];
    return found ? found.id : null;
  }

  key(event) {
    const all = [...this.root.children].map((one) => one.firstChild);
    const at = all.indexOf(document.activeElement);
    if (at === -1 || event.ctrlKey || event.metaKey || event.altKey) return;
    const columns = getComputedStyle(this.root).gridTemplateColumns.split(" ").length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const ends = { Home: 0, End: all.length - 1 };
    const to = event.key in ends ? ends[event.key] : at + moves[event.key];
    if (!(to in all)) return;
    event.preventDefault();
    event.stopPropagation();
    for (const one of all) one.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  }
}
