// What the server refused, in words, beside the button that asked.

import { button, by, el } from "./dom.js";
import { duration, sentence } from "./words.js";

const FIELDS = { prompt: "prompt", size: "sizes", seed: "seed", n: "n", expand: "expand" };
const STAGED = ["steps", "guidance", "eta"];

let ticking = null;

/** Take the message away. */
export function clear() {
  clearInterval(ticking);
  by("error").hidden = true;
  by("error").replaceChildren();
  for (const one of document.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
}

/** Show a Refusal; `retry` is what the button "Try again" does, or null. */
export function show(refusal, retry = null) {
  clear();
  const parts = [el("b", {}, refusal.title), el("p", {}, sentence(refusal.message))];
  if (retry !== null) parts.push(again(refusal, retry));
  by("error").replaceChildren(...parts);
  by("error").hidden = false;
  point(refusal);
  by("error").scrollIntoView({ block: "nearest" });
}

function again(refusal, retry) {
  const made = button("Try again", () => {
    clear();
    retry();
  });
  let left = refusal.after || 0;
  const tell = () => {
    made.disabled = left > 0;
    made.textContent = left > 0 ? `Try again in ${duration(left)}` : "Try again";
    left -= 1;
    if (left < 0) clearInterval(ticking);
  };
  if (left > 0) ticking = setInterval(tell, 1000);
  tell();
  return made;
}

/** Mark the field that is to blame. */
function point(refusal) {
  const { param, message } = refusal;
  let id = FIELDS[param];
  if (STAGED.includes(param)) {
    const stage = message.includes("relay stage") ? "relay" : "base";
    id = `a-${stage}-${param}`;
  }
  const found = id && by(id);
  if (!found) return;
  found.setAttribute("aria-invalid", "true");
  if (found.matches("input, textarea")) found.focus({ preventScroll: true });
}
