// The prompt as the server's language model writes it out: shown, and edited before it is drawn.

import { by, say } from "./dom.js";
import { expand } from "./jobs.js";
import { counted } from "./words.js";

/** Wire the fields. Returns {stop}, which ends a question to the model and says whether it did. */
export function expansionField(settings, refused) {
  let asking = null;
  let source = null; // the prompt that was expanded

  function show(open) {
    by("expanded-field").hidden = !open;
    settings.keep();
  }

  async function ask() {
    const prompt = by("prompt").value;
    if (!by("prompt").reportValidity()) return;
    asking = new AbortController();
    by("expand").disabled = true;
    say(by("expand-state"), "The language model writes; Esc stops it");
    try {
      const made = await expand(prompt, asking.signal);
      source = prompt;
      by("expanded").value = made.revised_prompt;
      const fell = made.fallback ? " The model gave nothing usable, so this is the prompt itself." : "";
      say(by("expanded-note"), `${counted(made.tokens, "token")}, by ${made.model}.${fell}`);
      show(true);
      say(by("expand-state"), "");
    } catch (e) {
      say(by("expand-state"), "");
      if (e.name !== "AbortError") refused(e, ask);
    }
    by("expand").disabled = false;
    asking = null;
  }

  by("expand").addEventListener("click", ask);
  by("expanded-drop").addEventListener("click", () => {
    show(false);
    say(by("expand-state"), "");
    by("prompt").focus();
  });
  by("prompt").addEventListener("input", () => {
    const stale = source !== null && !by("expanded-field").hidden && by("prompt").value !== source;
    say(by("expand-state"), stale ? "The text below is of an earlier prompt" : "");
  });
  return {
    stop() {
      if (asking === null) return false;
      asking.abort();
      return true;
    },
  };
}
