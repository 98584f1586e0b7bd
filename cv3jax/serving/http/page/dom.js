// Elements, made without markup: what anyone wrote is only ever set as text.

const PROPERTIES = new Set(["hidden", "disabled", "checked", "value", "src", "alt", "type", "href"]);

/** Return an element. Children are elements or texts; null and false are left out. */
export function el(name, given = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (PROPERTIES.has(key)) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((one) => one !== null && one !== false));
  return made;
}

/** Return the element of an id. */
export const by = (id) => document.getElementById(id);

/** Return a button. */
export function button(text, onclick, given = {}) {
  return el("button", { type: "button", onclick, ...given }, text);
}

/** Set an element's text where it is another, so that screen readers hear changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Return a button that asks once more before it acts. */
export function careful(text, question, act, given = {}) {
  let asked = false;
  const made = button(text, () => {
    if (asked) {
      act();
      return;
    }
    asked = true;
    made.textContent = question;
    setTimeout(() => {
      asked = false;
      made.textContent = text;
    }, 4000);
  }, given);
  return made;
}
