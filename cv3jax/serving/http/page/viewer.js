// The large place on the page: nothing yet, jobs, one picture, or two beside each other.

import { button, careful, el } from "./dom.js";
import { JobView } from "./jobview.js";
import { enlargements } from "./requests.js";
import { facts, fileName, size } from "./words.js";

const SMALL = 256; // pixels; a picture below is shown with its pixels as they are

/** The viewer. `actions` has what its buttons do. */
export class Viewer {
  constructor(root, gallery, actions) {
    this.root = root;
    this.gallery = gallery;
    this.actions = actions;
    this.views = [];
    this.shown = { kind: "empty" };
  }

  /** Show that nothing was drawn yet. */
  empty(about) {
    this.show({ kind: "empty" }, [
      el(
        "div",
        { class: "empty" },
        el("div", { class: "frames", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
        el("h2", {}, "Nothing drawn yet"),
        el("p", {}, about ? "Describe a picture and press Draw." : "Waiting for the server."),
      ),
    ]);
  }

  /** Show jobs that were begun together. */
  group(id, jobs) {
    const titles = jobs.length > 1 ? ["A", "B"] : [null];
    this.views = jobs.map((job, at) => new JobView(job, this.gallery, this.actions, titles[at]));
    const all = this.views.map((view) => view.root);
    this.show({ kind: "group", id }, [el("div", { class: `jobs jobs-${jobs.length}` }, ...all)]);
  }

  /** Take note that a job moved. */
  update(job) {
    for (const view of this.views) if (view.job === job) view.update();
  }

  /** Show one picture with what it was drawn from and what can be done with it. */
  picture(picture, about) {
    const main = figure(this.gallery.url(picture), picture);
    const earlier = picture.base ? "base" : picture.given ? "given" : null;
    const about_it = el(
      "div",
      { class: "about" },
      el("p", { class: "words" }, picture.prompt),
      expansion(picture),
      earlier && this.toggle(main, picture, earlier),
      list(facts(picture)),
      this.buttons(picture, about),
    );
    this.show({ kind: "picture", id: picture.id }, [el("div", { class: "single" }, main, about_it)]);
  }

  /** Return the switch between a picture and the one that it was made from. */
  toggle(main, picture, earlier) {
    const image = main.querySelector("img");
    const names = { blob: picture.given ? "Enlarged" : "Final", base: "Base", given: "Before" };
    const choices = [earlier, "blob"].map((what) =>
      button(names[what], () => {
        image.src = this.gallery.url(picture, what);
        for (const one of choices) {
          one.setAttribute("aria-pressed", String(one.textContent === names[what]));
        }
      }, { "aria-pressed": String(what === "blob") }),
    );
    return el("div", { class: "segments", role: "group", "aria-label": "Stage" }, ...choices);
  }

  buttons(picture, about) {
    const act = this.actions;
    const address = this.gallery.url(picture);
    const name = fileName(picture);
    const larger = enlargements(about, picture.size);
    return el(
      "div",
      { class: "actions" },
      el("a", { class: "button", href: address, download: name }, "Download"),
      button("Again", () => act.again(picture), { title: "The same settings and seed" }),
      button("Variations", () => act.variations(picture), { title: "Four new seeds" }),
      ...larger.sizes.map((to) => button(`Enlarge to ${size(to)}`, () => act.enlarge(picture, to))),
      button("Compare", () => act.pick(picture), { title: "Choose another picture beside it" }),
      button("Use settings", () => act.use(picture), { title: "Put them into the form" }),
      careful("Remove", "Really remove?", () => act.remove(picture), { class: "danger" }),
      larger.reason && el("p", { class: "note" }, larger.reason),
    );
  }

  /** Show two pictures beside each other, and what differs. */
  compare(a, b) {
    const sides = [a, b].map((one, at) => {
      const made = figure(this.gallery.url(one), one);
      made.append(
        el(
          "figcaption",
          { class: "row" },
          el("b", {}, at ? "B" : "A"),
          button("Open", () => this.actions.open(one.id), { class: "link" }),
        ),
      );
      return made;
    });
    this.show({ kind: "compare", ids: [a.id, b.id] }, [
      el("h2", {}, "Compared"),
      a.prompt === b.prompt && el("p", { class: "words" }, a.prompt),
      el("div", { class: "sides" }, ...sides),
      differences(a, b),
    ]);
  }

  show(shown, parts) {
    if (shown.kind !== "group") this.views = [];
    this.shown = shown;
    this.root.dataset.kind = shown.kind;
    this.root.replaceChildren(...parts.filter(Boolean));
  }
}

function figure(address, picture) {
  const [width, height] = picture.size.split("x").map(Number);
  const image = el("img", { src: address, alt: picture.prompt });
  const made = el("figure", { class: "big" }, image);
  made.style.setProperty("--ratio", `${width} / ${height}`);
  made.classList.toggle("pixels", Math.max(width, height) < SMALL);
  return made;
}

function expansion(picture) {
  if (picture.text === picture.prompt) return null;
  return el("details", {}, el("summary", {}, "Expanded prompt"), el("p", {}, picture.text));
}

function list(rows) {
  const parts = rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  return el("dl", { class: "facts" }, ...parts);
}

/** Return the table of what two pictures were drawn with; what differs is marked. */
function differences(a, b) {
  const rows = [a, b].map((one) => new Map(facts(one)));
  if (a.prompt !== b.prompt) [a, b].forEach((one, at) => rows[at].set("Prompt", one.prompt));
  const names = [...new Set([...rows[0].keys(), ...rows[1].keys()])];
  const body = names.map((name) => {
    const [left, right] = rows.map((one) => one.get(name) || "–");
    const given = left === right ? {} : { class: "differs" };
    return el("tr", given, el("th", { scope: "row" }, name), el("td", {}, left), el("td", {}, right));
  });
  const head = ["A", "B"].map((text) => el("th", { scope: "col" }, text));
  const caption = el("caption", {}, "Settings; those that differ are marked");
  return el("table", {}, caption, el("thead", {}, el("tr", {}, el("td"), ...head)), el("tbody", {}, ...body));
}
