// What this browser keeps: finished pictures, and the jobs that are being drawn.

const NAME = "cv3jax";
const MOST = 300; // pictures; the oldest goes when one more comes

let database = null;
const memory = { pictures: new Map(), jobs: new Map() }; // where the browser keeps nothing

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function table(name, mode) {
  return database.transaction(name, mode).objectStore(name);
}

/** Open the database. Returns whether the browser has one. */
export async function open() {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      for (const name of ["pictures", "jobs"]) {
        request.result.createObjectStore(name, { keyPath: "id" });
      }
    };
    database = await promised(request);
    // another tab may have a newer page
    database.onversionchange = () => database.close();
  } catch {
    database = null;
  }
  return database !== null;
}

/** Return everything of a table. */
export async function all(name) {
  if (database === null) return [...memory[name].values()];
  return promised(table(name, "readonly").getAll());
}

/** Keep a record. Raises where the disk has no room. */
export async function put(name, record) {
  if (database === null) memory[name].set(record.id, record);
  else await promised(table(name, "readwrite").put(record));
}

/** Remove a record. */
export async function remove(name, id) {
  if (database === null) memory[name].delete(id);
  else await promised(table(name, "readwrite").delete(id));
}

/** Compare two pictures: those of newer jobs come first, those of one job in their order. */
export const newestFirst = (a, b) => b.at - a.at || a.index - b.index;

/** The pictures, newest first. Emits "change" with the picture that was added, or null. */
export class Gallery extends EventTarget {
  constructor() {
    super();
    this.pictures = [];
    this.full = false; // whether older pictures were removed
    this.urls = new Map();
  }

  /** Read what was kept. */
  async load() {
    this.pictures = (await all("pictures")).sort(newestFirst);
    this.changed();
  }

  find(id) {
    return this.pictures.find((one) => one.id === id) || null;
  }

  /** Add a picture. Returns a sentence where the browser could not keep it, or null. */
  async add(picture) {
    const others = this.pictures.filter((one) => one.id !== picture.id);
    this.pictures = [picture, ...others].sort(newestFirst);
    let problem = null;
    try {
      await put("pictures", picture);
    } catch {
      problem = "This browser has no room left: the newest pictures last until the page is closed.";
    }
    for (const old of this.pictures.slice(MOST)) {
      await this.drop(old);
      this.full = true;
    }
    this.changed(picture);
    return problem;
  }

  async remove(id) {
    const found = this.find(id);
    if (found !== null) await this.drop(found);
    this.changed();
  }

  async clear() {
    for (const one of [...this.pictures]) await this.drop(one);
    this.changed();
  }

  async drop(picture) {
    this.pictures = this.pictures.filter((one) => one !== picture);
    for (const what of ["blob", "base", "given"]) {
      const url = this.urls.get(`${picture.id} ${what}`);
      if (url) URL.revokeObjectURL(url);
      this.urls.delete(`${picture.id} ${what}`);
    }
    await remove("pictures", picture.id);
  }

  /** Return the address of a picture, of its base's picture, or of what it was made from. */
  url(picture, what = "blob") {
    const name = `${picture.id} ${what}`;
    if (!this.urls.has(name)) this.urls.set(name, URL.createObjectURL(picture[what]));
    return this.urls.get(name);
  }

  changed(added = null) {
    this.dispatchEvent(new CustomEvent("change", { detail: added }));
  }
}

export { MOST };
