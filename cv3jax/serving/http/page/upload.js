// A picture from this device that the relay enlarges.

import { button, by, say } from "./dom.js";
import { enlargements } from "./requests.js";
import { size } from "./words.js";

/** Wire the field for what a server can do; `enlarge` is called with the file and a size. */
export function ownPicture(about, enlarge) {
  const field = by("own-file");
  by("own").hidden = about.enlargements.length === 0;
  by("own-strength-field").hidden = Boolean(about.stages.relay?.distilled);

  field.onchange = async () => {
    const file = field.files[0];
    by("own-sizes").replaceChildren();
    say(by("own-note"), "");
    if (file === undefined) return;
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      say(by("own-note"), "This browser cannot read the file as a picture.");
      return;
    }
    const of = `${picture.width}x${picture.height}`;
    picture.close();
    const larger = enlargements(about, of);
    const how = larger.reason || "The prompt above says what it shows.";
    say(by("own-note"), `${size(of)}. ${how}`);
    const make = (to) => button(`Enlarge to ${size(to)}`, () => enlarge(file, to));
    by("own-sizes").replaceChildren(...larger.sizes.map(make));
  };
}
