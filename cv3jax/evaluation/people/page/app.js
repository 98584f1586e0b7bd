// The page of a rater: a pair at a time, two questions, by keyboard, mouse or touch.

import { ask, patiently } from "./api.js";

const by = (id) => document.getElementById(id);
const CHOICES = [["first", "1"], ["tie", "Equal"], ["second", "2"]];
const KEYS = { 1: "first", 2: "second", 0: "tie", 3: "tie", ArrowLeft: "first", ArrowRight: "second", ArrowDown: "tie" };
let token = location.pathname.startsWith("/r/") ? location.pathname.slice(3) : "";
let shown = null; // the server's state
let since = 0; // when both pictures were there
let sending = false;

/** Return an element with properties and children. */
function el(name, given, ...children) {
  const made = Object.assign(document.createElement(name), given);
  made.append(...children);
  return made;
}

/** Show one of the page's parts alone. */
function only(id) {
  for (const each of ["enter", "pair", "end"]) by(each).hidden = each !== id;
}

function problem(text) {
  by("error").textContent = text;
  by("error").hidden = text === "";
}

/** Return the answer to a question that is given on the page, or "". */
const chosen = (aspect) => document.querySelector(`input[name="${aspect}"]:checked`)?.value ?? "";

/** Return the first question without an answer, or undefined. */
const open = () => Object.keys(shown.questions).find((aspect) => chosen(aspect) === "");

function refresh() {
  const next = open();
  for (const each of document.querySelectorAll("fieldset")) {
    each.classList.toggle("asked", each.dataset.aspect === next);
    each.disabled = since === 0;
  }
  by("next").disabled = next !== undefined || sending || since === 0;
}

/** Return a picture that opens at full size; `loaded` is called when it is there. */
function picture(address, label, loaded) {
  const image = el("img", { alt: `Picture ${label}`, src: address });
  let tries = 0;
  image.addEventListener("load", loaded);
  image.addEventListener("error", () => {
    problem("A picture does not come; it is asked for again.");
    tries += 1;
    setTimeout(() => { image.src = `${address}?again=${tries}`; }, 1000);
  });
  const button = el("button", { type: "button", onclick: () => {
    by("large-picture").src = image.src;
    by("large").showModal();
  } }, image);
  button.setAttribute("aria-label", `Picture ${label} at full size`);
  return el("figure", {}, button, el("figcaption", { textContent: label }));
}

function question(aspect, text, answer) {
  const choices = CHOICES.map(([value, label]) => {
    const input = el("input", { type: "radio", name: aspect, value, checked: value === answer });
    input.addEventListener("change", refresh);
    return el("label", { className: "choice" }, input, label);
  });
  const made = el("fieldset", {}, el("legend", { textContent: text }), ...choices);
  made.dataset.aspect = aspect;
  return made;
}

function show(state) {
  shown = state;
  problem("");
  by("who").textContent = state.rater;
  by("count").textContent = `${state.done} of ${state.total} judged`;
  by("progress").hidden = false;
  by("progress").max = Math.max(state.total, 1);
  by("progress").value = state.done;
  if (state.prompt === null) {
    by("end-back").hidden = state.total === 0;
    only("end");
    return;
  }
  only("pair");
  by("prompt").textContent = state.prompt;
  since = 0;
  const place = state.place;
  let waits = state.pictures.length;
  const loaded = () => {
    waits -= 1;
    if (waits > 0 || shown.place !== place) return;
    since = performance.now();
    problem("");
    refresh();
    for (const address of state.ahead) new Image().src = address;
  };
  by("pictures").replaceChildren(...state.pictures.map((each, i) => picture(each, `${i + 1}`, loaded)));
  const back = el("button", { type: "button", id: "back", textContent: "Back", disabled: place === 0, onclick: () => go(place - 1) });
  const next = el("button", { type: "submit", id: "next", className: "main", textContent: "Next" });
  const keys = el("p", { className: "note keys" });
  for (const [key, text] of [["1", "picture 1"], ["2", "picture 2"], ["0", "equal"], ["Enter", "next"], ["Backspace", "back"]]) {
    keys.append(el("span", {}, el("kbd", { textContent: key }), ` ${text}`));
  }
  const asked = Object.entries(state.questions).map(([aspect, text]) => question(aspect, text, state.answers[aspect]));
  by("answers").replaceChildren(...asked, el("div", { className: "go" }, back, next), keys);
  refresh();
  by("prompt").focus({ preventScroll: true });
}

/** Show the pair at a place, by default the next without a vote. */
async function go(place) {
  const at = place === undefined ? "" : `?place=${place}`;
  try {
    show(await patiently(() => ask(`/api/${token}/state${at}`), (e) => problem(`${e.message} The page tries again.`)));
  } catch (e) {
    only("");
    problem(e.message);
  }
}

async function send() {
  if (sending || since === 0 || open() !== undefined) return;
  const vote = { place: shown.place, seconds: Math.min((performance.now() - since) / 1000, 86400) };
  for (const aspect of Object.keys(shown.questions)) vote[aspect] = chosen(aspect);
  sending = true;
  refresh();
  try {
    const wait = (e) => problem(`${e.message} Your vote is kept, and sent again.`);
    const state = await patiently(() => ask(`/api/${token}/vote`, vote), wait);
    sending = false;
    show(state);
  } catch (e) {
    problem(e.message);
  } finally {
    sending = false;
    if (shown.prompt !== null) refresh();
  }
}

/** Answer the first open question, or change the last answer. */
function answer(value) {
  const aspects = Object.keys(shown.questions);
  const aspect = open() ?? aspects[aspects.length - 1];
  document.querySelector(`input[name="${aspect}"][value="${value}"]`).checked = true;
  refresh();
}

document.addEventListener("keydown", (e) => {
  if (by("large").open || by("pair").hidden || e.ctrlKey || e.metaKey || e.altKey || e.repeat) return;
  if (e.key in KEYS && since > 0) answer(KEYS[e.key]);
  else if (e.key === "Enter" && e.target.tagName !== "BUTTON") send();
  else if (e.key === "Backspace" && shown.place > 0) go(shown.place - 1);
  else return;
  e.preventDefault();
});
by("answers").addEventListener("submit", (e) => {
  e.preventDefault();
  send();
});
by("large").addEventListener("click", () => by("large").close());
by("end-back").addEventListener("click", () => go(shown.total - 1));
by("enter").addEventListener("submit", async (e) => {
  e.preventDefault();
  problem("");
  try {
    token = (await ask("/api/rater", { name: by("name").value })).token;
    history.replaceState(null, "", `/r/${token}`);
    await go();
  } catch (refused) {
    problem(refused.message);
  }
});

if (token) {
  go();
} else {
  patiently(() => ask("/api/study"), (e) => problem(`${e.message} The page tries again.`)).then(({ closed }) => {
    problem(closed ? "This study takes raters by their own links. Ask whoever runs it for yours." : "");
    if (!closed) only("enter");
  }, (refused) => problem(refused.message));
}
