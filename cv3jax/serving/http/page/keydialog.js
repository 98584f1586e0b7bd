// The dialog that asks for a bearer key.

import { hasKey, useKey } from "./api.js";
import { by } from "./dom.js";

/** Call `entered` after a key was given. Returns what opens the dialog. */
export function keyDialog(entered) {
  const dialog = by("key-dialog");
  by("key-form").addEventListener("submit", () => {
    useKey(by("key").value.trim(), by("key-keep").checked);
    by("key").value = "";
    entered();
  });
  by("key-cancel").addEventListener("click", () => dialog.close());
  const open = () => {
    by("key-open").hidden = false;
    const wrong = "The server does not know this key.";
    by("key-note").textContent = hasKey() ? wrong : "Whoever runs the server gives you one.";
    if (!dialog.open) dialog.showModal();
  };
  by("key-open").addEventListener("click", () => dialog.showModal());
  return open;
}
