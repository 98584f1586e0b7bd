// The adapters (LoRA) that a server offers: which of them a picture is drawn with, and how strongly.

import { by, el } from "./dom.js";

const MOST = 100; // of a weight, either way

/** Return the fields of all adapters, or null where the server has none; `which` tells two apart. */
export function adapterFields(which, about) {
  const rows = Object.entries(about.loras).map(([name, { stage }]) => {
    const id = `${which}-lora-${name}`;
    const weight = el("input", {
      id: `${id}-weight`,
      type: "number",
      min: -MOST,
      max: MOST,
      step: "any",
      value: "1",
      required: "",
      "aria-label": `Weight of ${name}`,
    });
    const use = el("input", { id, type: "checkbox" });
    const label = el("label", { class: "switch", for: id }, use, el("span", { title: name }, name));
    return el(
      "div",
      { class: "adapter", "data-name": name, "data-stage": stage },
      label,
      el("span", { class: "note" }, stage),
      weight,
    );
  });
  if (!rows.length) return null;
  const legend = el("legend", {}, "Adapters");
  return el("fieldset", { class: "adapters", id: `${which}-adapters` }, legend, ...rows);
}

/** Show the adapters of the stages that draw the chosen size, and the weights of those in use. */
export function showAdapters(which, stages, disabled) {
  const all = by(`${which}-adapters`);
  if (all === null) return;
  all.disabled = disabled;
  for (const row of all.querySelectorAll(".adapter")) {
    row.hidden = !stages.includes(row.dataset.stage);
    const [use, weight] = row.querySelectorAll("input");
    weight.hidden = !use.checked;
    weight.disabled = row.hidden || !use.checked;
  }
}

/** Return what a request says of the adapters, or nothing where none is in use. */
export function chosenAdapters(which, stages) {
  const all = by(`${which}-adapters`);
  const loras = [];
  for (const row of all === null ? [] : all.querySelectorAll(".adapter")) {
    const [use, weight] = row.querySelectorAll("input");
    if (use.checked && stages.includes(row.dataset.stage)) {
      loras.push({ name: row.dataset.name, weight: weight.valueAsNumber });
    }
  }
  return loras.length ? { loras } : {};
}

/** Put the adapters of a picture into the form. */
export function useAdapters(which, loras) {
  const all = by(`${which}-adapters`);
  if (all === null) return;
  for (const row of all.querySelectorAll(".adapter")) {
    const [use, weight] = row.querySelectorAll("input");
    const found = loras.find(({ name }) => name === row.dataset.name);
    use.checked = found !== undefined;
    weight.value = found === undefined ? "1" : String(found.weight);
  }
}
