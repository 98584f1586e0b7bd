// What is asked of the server to draw a picture of the gallery again, in other seeds, or larger.

import { size } from "./words.js";

const COUNT = 4; // variations

function stages(picture, what) {
  return ["base", "relay"].map((name) => picture.settings[name]?.[what] ?? null);
}

/** Return the request that draws the same picture. */
export function again(picture) {
  const asked = { prompt: picture.text, size: picture.size, n: 1, seed: picture.seed };
  asked.output_format = picture.format;
  if (picture.loras?.length) asked.loras = picture.loras;
  if (picture.kind === "edit") return { ...asked, ...relay(picture) };
  for (const what of ["steps", "guidance", "eta"]) asked[what] = stages(picture, what);
  return asked;
}

/** Return the request that draws pictures of other seeds. */
export function variations(picture, most) {
  const { seed, ...asked } = again(picture);
  return { ...asked, n: Math.min(COUNT, most) };
}

/** Return the request that enlarges a picture to a size. */
export function enlargement(picture, to, about) {
  const asked = { prompt: picture.text, size: to, n: 1, seed: picture.seed };
  asked.output_format = picture.format;
  const settings = picture.settings.relay ? picture.settings : about.stages;
  return { ...asked, ...relay({ settings }) };
}

function relay({ settings }) {
  const { steps, guidance, eta } = settings.relay;
  return { steps, guidance, eta };
}

/** Return the sizes to which the server enlarges a picture, or the reason why there is none. */
export function enlargements(about, of) {
  const sides = (text) => text.split("x").map(Number);
  const [width, height] = sides(of);
  const found = new Set();
  for (const chain of about.enlargements) {
    const [wide, high] = sides(chain[0]);
    const factor = 2 ** (chain.length - 1);
    if (width <= wide && height <= high) found.add(`${width * factor}x${height * factor}`);
  }
  if (found.size) return { sizes: [...found], reason: null };
  const most = [...new Set(about.enlargements.map((chain) => size(chain[0])))].join(", ");
  const reason = most
    ? `This server enlarges pictures that fit into ${most}.`
    : "This server has no relay, which enlarges pictures.";
  return { sizes: [], reason };
}
