// The fields of the form, and what is asked of the server with them.

import { adapterFields, chosenAdapters, showAdapters, useAdapters } from "./adapters.js";
import { by, el } from "./dom.js";
import { number, size } from "./words.js";

const DRAFT = "draft";
const LAST_SEED = 2 ** 32 - 1;

/** Return a seed that `n` pictures can count up from. */
export function randomSeed(n) {
  const drawn = crypto.getRandomValues(new Uint32Array(1))[0];
  return Math.min(drawn, LAST_SEED + 1 - n);
}

/** Return the largest sizes that the server draws, each once: [{size, stages}]. */
function drawn(about) {
  const found = new Map();
  for (const chain of about.sizes) {
    const last = chain[chain.length - 1];
    if (!found.has(last)) found.set(last, chain.length > 1 ? ["base", "relay"] : ["base"]);
  }
  return found;
}

function field(label, id, given, note = null) {
  const input = el("input", { id, type: "number", required: "", ...given });
  const hint = note && el("span", { class: "hint", id: `${id}-hint` }, note);
  if (note) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id }, label, hint), input);
}

/** Return the fields of one stage; `which` tells two sets of them apart. */
function stageFields(which, name, stage) {
  const id = (what) => `${which}-${name}-${what}`;
  const steps = { min: 1, max: stage.max_steps, step: 1, value: String(stage.steps) };
  const guidance = { min: 0, max: 100, step: "any", value: number(stage.guidance) };
  const eta = { min: 0, max: 1, step: "any", value: number(stage.eta) };
  let fixed = null;
  let range = null;
  if (stage.distilled) {
    fixed = "distilled";
    steps.readonly = "";
    if (stage.distilled.guidance) {
      [guidance.min, guidance.max] = stage.distilled.guidance;
      range = `${number(guidance.min)}–${number(guidance.max)}`;
    }
  }
  return el(
    "fieldset",
    { class: "stage", id: `${which}-${name}` },
    el("legend", {}, name === "base" ? "Base" : "Relay"),
    field("Steps", id("steps"), steps, fixed),
    field("Guidance", id("guidance"), guidance, range),
    field("Noise η", id("eta"), eta),
  );
}

/** The form. */
export class Settings {
  /** Show the fields for what a server can do. */
  fill(about) {
    this.about = about;
    this.sizes = drawn(about);
    by("sizes").replaceChildren(...[...this.sizes.keys()].map((one) => chip(one, about)));
    by("n").max = about.max_n;
    by("format").replaceChildren(
      ...about.output_formats.map((one) => el("option", { value: one }, one.toUpperCase())),
    );
    for (const which of ["a", "b"]) {
      const stages = Object.entries(about.stages);
      by(`settings-${which}`).replaceChildren(
        el("p", { class: "side" }, which.toUpperCase()),
        ...stages.map(([name, stage]) => stageFields(which, name, stage)),
        ...[adapterFields(which, about)].filter(Boolean),
      );
    }
    by("expansion").hidden = !about.expand;
    this.recall();
    this.show();
  }

  get size() {
    return document.querySelector("input[name=size]:checked").value;
  }

  /** Show the fields of the stages that draw the chosen size. */
  show() {
    for (const which of ["a", "b"]) {
      for (const name of Object.keys(this.about.stages)) {
        const stage = by(`${which}-${name}`);
        stage.hidden = !this.sizes.get(this.size).includes(name);
        stage.disabled = stage.hidden || (which === "b" && !by("compare").checked);
      }
      const off = which === "b" && !by("compare").checked;
      showAdapters(which, this.sizes.get(this.size), off);
    }
    by("settings-b").hidden = !by("compare").checked;
    by("settings-a").firstChild.hidden = !by("compare").checked;
    const title = by("compare").checked ? "Draw both" : "Draw";
    by("draw").firstChild.textContent = `${title} `;
  }

  /** Return what is asked of the server: one request, or two to compare. */
  requests() {
    const n = by("n").valueAsNumber;
    const seed = by("seed").value === "" ? null : by("seed").valueAsNumber;
    const asked = { prompt: this.text, size: this.size, n, output_format: by("format").value };
    if (!by("compare").checked) {
      return [{ ...asked, ...(seed === null ? {} : { seed }), ...this.stages("a") }];
    }
    const same = seed === null ? randomSeed(n) : seed;
    return ["a", "b"].map((which) => ({ ...asked, seed: same, ...this.stages(which) }));
  }

  /** Return the prompt that is drawn. */
  get text() {
    return by("expanded-field").hidden ? by("prompt").value : by("expanded").value;
  }

  /** Return what is asked of the server to enlarge a picture of this device to a size. */
  enlargement(to) {
    const asked = { prompt: this.text, size: to, n: 1, output_format: by("format").value };
    if (by("seed").value !== "") asked.seed = by("seed").valueAsNumber;
    for (const what of ["steps", "guidance", "eta"]) asked[what] = by(`a-relay-${what}`).value;
    if (!by("own-strength-field").hidden) asked.strength = by("own-strength").value;
    return { ...asked, ...chosenAdapters("a", ["relay"]) };
  }

  stages(which) {
    const names = this.sizes.get(this.size);
    const read = (what) =>
      ["base", "relay"].map((name) =>
        names.includes(name) ? by(`${which}-${name}-${what}`).valueAsNumber : null,
      );
    const loras = chosenAdapters(which, names);
    return { steps: read("steps"), guidance: read("guidance"), eta: read("eta"), ...loras };
  }

  /** Put a picture's settings into the form. */
  use(picture) {
    by("prompt").value = picture.prompt;
    const expanded = picture.text !== picture.prompt;
    by("expanded-field").hidden = !expanded;
    by("expansion").hidden = !expanded && !this.about.expand;
    by("expand").hidden = !this.about.expand;
    by("expanded").value = expanded ? picture.text : "";
    by("seed").value = picture.seed;
    by("n").value = 1;
    by("compare").checked = false;
    const chosen = by(`size-${picture.size}`);
    if (chosen) chosen.checked = true;
    for (const [name, stage] of Object.entries(picture.settings)) {
      for (const what of ["steps", "guidance", "eta"]) {
        const input = by(`a-${name}-${what}`);
        if (input && !input.readOnly) input.value = number(stage[what]);
      }
    }
    useAdapters("a", picture.loras || []);
    this.show();
    this.keep();
  }

  /** Keep the form's values for the next visit. */
  keep() {
    const values = {};
    for (const one of by("composer").querySelectorAll("input, textarea, select")) {
      if (one.type === "radio" || one.type === "file") continue;
      values[one.id] = one.type === "checkbox" ? one.checked : one.value;
    }
    values.size = this.size;
    values.open = !by("expanded-field").hidden;
    try {
      localStorage.setItem(DRAFT, JSON.stringify(values));
    } catch {
      // a browser that keeps nothing begins with an empty form
    }
  }

  recall() {
    let values = {};
    try {
      values = JSON.parse(localStorage.getItem(DRAFT)) || {};
    } catch {
      // as above
    }
    for (const [id, value] of Object.entries(values)) {
      const one = by(id);
      if (one === null || one.readOnly) continue;
      if (one.id === "prompt" && one.value) continue; // typed before the server answered
      if (one.type === "checkbox") one.checked = value;
      else if (typeof value === "string") one.value = value;
    }
    const chosen = by(`size-${values.size}`) || by(`size-${this.about.default_size}`);
    if (chosen) chosen.checked = true;
    by("expanded-field").hidden = !(values.open && this.about.expand);
  }
}

function chip(of, about) {
  const [width, height] = of.split("x").map(Number);
  const input = el("input", { type: "radio", name: "size", id: `size-${of}`, value: of });
  input.checked = of === about.default_size;
  const shape = el("span", { class: "shape", "aria-hidden": "true" });
  const longer = Math.max(width, height);
  shape.style.setProperty("--w", width / longer);
  shape.style.setProperty("--h", height / longer);
  return el("label", { class: "chip" }, input, shape, size(of));
}
