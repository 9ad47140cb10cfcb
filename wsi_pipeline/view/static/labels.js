// The labels of a slide, or its tissue: what the server has, what is on its way there, and how to undo it.
//
// A change is kept in the browser until the server has confirmed that it is on disk, so that a
// server that dies loses nothing, and neither does a page that is closed.

import { Refused, get, post, slideUrl } from "./api.js";
import { notify } from "./dom.js";

const RETRY_MS = 2000;
const MOST_UNDO = 200;

export class Labels {
  constructor(out, { changed, saved }, what = "labels") {
    this.out = out;
    this.what = what;
    this.changed = changed;
    this.saved = saved;
    this.slide = null;
    this.features = new Map();
    this.undoable = [];
    this.redoable = [];
    this.waiting = [];
    this.sending = null;
  }

  /** Read the labels of a slide, and send what an earlier visit could not. */
  async open(slide) {
    this.slide = slide;
    this.features = new Map();
    this.undoable = [];
    this.redoable = [];
    const features = await get(slideUrl(slide, `/${this.what}`));
    if (this.slide !== slide) return;
    this.#take(Object.fromEntries(features.map((feature) => [feature.id, feature])));
    this.waiting = this.#kept();
    this.#send();
  }

  /** Make a change; see LabelFile.apply for the forms it takes. */
  do(change) {
    this.waiting.push({ change, kind: "do" });
    this.redoable = [];
    this.#keep();
    this.#send();
  }

  undo() {
    const before = this.undoable.pop();
    if (before) this.#again(before, "undo");
  }

  redo() {
    const after = this.redoable.pop();
    if (after) this.#again(after, "redo");
  }

  #again(restore, kind) {
    this.waiting.push({ change: { restore }, kind });
    this.#keep();
    this.#send();
  }

  #send() {
    this.sending ??= this.#sendAll().finally(() => { this.sending = null; });
    return this.sending;
  }

  async #sendAll() {
    const { slide } = this;
    while (this.waiting.length && this.slide === slide) {
      const [{ change, kind }] = this.waiting;
      this.saved("saving");
      try {
        const { done, undo } = await post(slideUrl(slide, `/${this.what}`), change);
        if (this.slide !== slide) return;
        this.waiting.shift();
        this.#remember(kind, undo);
        this.#take(done);
      } catch (error) {
        if (error instanceof Refused && error.status < 500) {
          this.waiting.shift(); // it will not be accepted later either
          notify(`Not saved: ${error.message}`);
        } else {
          this.saved("waiting");
          await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
        }
      }
      this.#keep();
    }
    this.saved("saved");
  }

  #remember(kind, undo) {
    if (!Object.keys(undo).length) return;
    const stack = kind === "undo" ? this.redoable : this.undoable;
    stack.push(undo);
    if (stack.length > MOST_UNDO) stack.shift();
  }

  #take(changes) {
    for (const [id, feature] of Object.entries(changes)) {
      if (feature === null) this.features.delete(id);
      else this.features.set(id, read(feature));
    }
    this.changed(changes);
  }

  get #key() {
    return `wsi-pipeline ${this.out} ${this.slide}${this.what === "labels" ? "" : ` ${this.what}`}`;
  }

  #kept() {
    try {
      return JSON.parse(localStorage.getItem(this.#key) ?? "[]");
    } catch {
      return [];
    }
  }

  #keep() {
    try {
      if (this.waiting.length) localStorage.setItem(this.#key, JSON.stringify(this.waiting));
      else localStorage.removeItem(this.#key);
    } catch {
      // a browser without storage: changes are still sent, only not kept if it is closed
    }
  }

  /** The label under a place: the last one drawn. */
  at(x, y) {
    return [...this.features.values()].reverse().find((label) => label.path && inside(label, x, y)) ?? null;
  }

  /** The label that is just this tile, if there is one. */
  ofTile({ x, y, side }) {
    const near = (a, b) => Math.abs(a - b) < 1;
    return [...this.features.values()].find(({ box, corners }) =>
      corners === 4 && near(box.left, x) && near(box.top, y) && near(box.right, x + side) && near(box.bottom, y + side)) ?? null;
  }
}

const probe = new OffscreenCanvas(1, 1).getContext("2d");
function inside({ path, box }, x, y) {
  if (x < box.left || x > box.right || y < box.top || y > box.bottom) return false;
  return probe.isPointInPath(path, x, y, "evenodd");
}

/** What the page needs of a GeoJSON object: path, box and class. */
function read(feature) {
  const { geometry, properties } = feature;
  const rings = ringsOf(geometry);
  const classification = properties?.classification ?? {};
  const label = {
    feature,
    id: feature.id,
    name: String(classification.name ?? properties?.name ?? ""),
    color: Array.isArray(classification.color) ? rgb(classification.color) : null,
    path: null,
    box: null,
    corners: 0,
  };
  if (rings.length) {
    label.path = new Path2D();
    for (const ring of rings) {
      ring.forEach(([x, y], i) => (i ? label.path.lineTo(x, y) : label.path.moveTo(x, y)));
      label.path.closePath();
    }
    const xs = rings.flat().map(([x]) => x);
    const ys = rings.flat().map(([, y]) => y);
    const least = (values) => values.reduce((a, b) => Math.min(a, b));
    const most = (values) => values.reduce((a, b) => Math.max(a, b));
    label.box = { left: least(xs), right: most(xs), top: least(ys), bottom: most(ys) };
    label.corners = rings.length === 1 ? rings[0].length - 1 : 0;
  }
  return label;
}

export function ringsOf(geometry) {
  if (geometry?.type === "Polygon") return geometry.coordinates;
  if (geometry?.type === "MultiPolygon") return geometry.coordinates.flat();
  return [];
}

const rgb = (values) => `#${values.slice(0, 3).map((v) => Math.max(0, Math.min(255, Number(v) | 0)).toString(16).padStart(2, "0")).join("")}`;
