// What a pointer does on a slide: move it, or draw labels with the tool that was chosen.

import { ringsOf } from "./labels.js";
import { tileAt, tileBox } from "./maps.js";

export const TOOLS = [
  { name: "move", key: "v", text: "Move", help: "drag to move, scroll to zoom" },
  { name: "tile", key: "t", text: "Tiles", help: "click tiles, or drag over them; again takes the label off" },
  { name: "brush", key: "b", text: "Brush", help: "paint; [ and ] change its size" },
  { name: "polygon", key: "p", text: "Outline", help: "click corners, double click or Enter closes, Escape gives up" },
  { name: "erase", key: "e", text: "Erase", help: "rub out what was drawn; [ and ] change its size" },
  { name: "edit", key: "s", text: "Edit", help: "click a label: drag its corners, Delete removes it, a class changes it" },
];

const GRAB_PX = 9; // how near a corner the pointer must be
const BRUSH = { least: 4, most: 200, step: 1.3 };

export const newId = () => crypto.randomUUID?.() ?? "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx".replace(/x/g, () => (crypto.getRandomValues(new Uint8Array(1))[0] % 16).toString(16));

const square = ({ x, y, side }) => ({ type: "Polygon", coordinates: [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]] });

export class Tools {
  constructor(layer, { redraw, currentClass, grid, chosen }) {
    this.layer = layer; // what is drawn: the labels of the slide, or its tissue
    this.redraw = redraw;
    this.currentClass = currentClass;
    this.grid = grid;
    this.chosen = chosen;
    this.tool = "move";
    this.radius = 24; // screen px, so that zooming in paints finer
    this.stroke = null;
    this.outline = [];
    this.selected = null;
    this.corner = null;
    this.pointer = null;
  }

  get labels() {
    return this.layer();
  }

  choose(tool) {
    this.tool = tool;
    this.stroke = null;
    this.outline = [];
    this.selected = null;
    this.chosen(tool);
    this.redraw();
  }

  resize(bigger) {
    this.radius = Math.max(BRUSH.least, Math.min(BRUSH.most, this.radius * (bigger ? BRUSH.step : 1 / BRUSH.step)));
    this.redraw();
  }

  /** Listen to the pointer over a pane. */
  attach(pane) {
    const { viewer } = pane;
    const taking = (handle) => (event) => {
      if (this.tool === "move") return;
      event.preventDefaultAction = true;
      handle(pane.toSlide(event.position), pane, event);
    };
    viewer.addHandler("canvas-press", taking((place, _, event) => this.#press(place, pane, event)));
    viewer.addHandler("canvas-drag", taking((place) => this.#drag(place, pane)));
    viewer.addHandler("canvas-release", taking((place) => this.#release(place, pane)));
    viewer.addHandler("canvas-click", taking((place, _, event) => event.quick && this.#click(place, pane)));
    viewer.addHandler("canvas-double-click", taking(() => this.close()));
    viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  }

  #press(place, pane) {
    const { tool } = this;
    if (tool === "brush" || tool === "erase") this.stroke = { points: [[place.x, place.y]], radius: this.radius / pane.transform().scale };
    if (tool === "tile") this.stroke = { tiles: new Map(), points: [] };
    if (tool === "edit") this.corner = this.#grab(place, pane);
    this.redraw();
  }

  #drag(place, pane) {
    if (this.tool === "edit" && this.corner) {
      this.corner.move(place);
    } else if (this.stroke?.tiles) {
      this.#crossTile(place);
    } else if (this.stroke) {
      const last = this.stroke.points.at(-1);
      if (Math.hypot(place.x - last[0], place.y - last[1]) * pane.transform().scale > 2) this.stroke.points.push([place.x, place.y]);
    }
    this.pointer = place;
    this.redraw();
  }

  #release(place) {
    const { stroke, corner } = this;
    this.stroke = null;
    this.corner = null;
    if (corner?.moved) this.#put(corner.label, corner.geometry);
    else if (stroke?.tiles?.size) this.#labelTiles([...stroke.tiles.values()]);
    else if (stroke?.radius) this.#paint(stroke);
    this.redraw();
    this.pointer = place;
  }

  #click(place, pane) {
    if (this.tool === "tile") {
      const tile = tileAt(this.grid(), place.x, place.y);
      if (tile && tile.index >= 0) this.#toggleTile(tile);
    } else if (this.tool === "polygon") {
      this.outline.push([place.x, place.y]);
    } else if (this.tool === "edit") {
      this.selected = this.labels.at(place.x, place.y)?.id ?? null;
    }
    this.pointer = place;
    this.redraw(pane);
  }

  #paint({ points, radius }) {
    const round = points.map(([x, y]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);
    if (this.tool === "erase") this.labels.do({ erase: { points: round, radius } });
    else this.#withClass(({ name, color }) => this.labels.do({ brush: { id: newId(), points: round, radius, name, color } }));
  }

  #crossTile(place) {
    const tile = tileAt(this.grid(), place.x, place.y);
    if (tile && tile.index >= 0) this.stroke.tiles.set(tile.index, tile);
  }

  #labelTiles(tiles) {
    this.#withClass(({ name, color }) => {
      const boxes = tiles.map((tile) => tileBox(this.grid(), tile)).filter((box) => this.labels.ofTile(box)?.name !== name);
      for (const box of boxes) this.labels.do({ put: { id: this.labels.ofTile(box)?.id ?? newId(), geometry: square(box), name, color } });
    });
  }

  #toggleTile(tile) {
    this.#withClass(({ name, color }) => {
      const box = tileBox(this.grid(), tile);
      const old = this.labels.ofTile(box);
      if (old?.name === name) this.labels.do({ restore: { [old.id]: null } });
      else this.labels.do({ put: { id: old?.id ?? newId(), geometry: square(box), name, color } });
    });
  }

  /** Finish the outline that is being drawn. */
  close() {
    const corners = this.outline.filter(([x, y], i, all) => !i || Math.hypot(x - all[i - 1][0], y - all[i - 1][1]) > 1e-6);
    this.outline = [];
    if (corners.length >= 3) {
      this.#withClass(({ name, color }) => this.labels.do({ put: { id: newId(), geometry: { type: "Polygon", coordinates: [[...corners, corners[0]]] }, name, color } }));
    }
    this.redraw();
  }

  cancel() {
    this.outline = [];
    this.selected = null;
    this.redraw();
  }

  remove() {
    if (this.selected) this.labels.do({ restore: { [this.selected]: null } });
    this.selected = null;
    this.redraw();
  }

  /** Give the selected label another class. */
  reclass({ name, color }) {
    const label = this.labels.features.get(this.selected);
    if (label && label.name !== name) this.labels.do({ put: { id: label.id, geometry: label.feature.geometry, name, color } });
  }

  #put(label, geometry) {
    const entry = { name: label.name || this.currentClass()?.name, color: label.color ?? this.currentClass()?.color ?? "#7f7f7f" };
    if (entry.name) this.labels.do({ put: { id: label.id, geometry, ...entry } });
  }

  /** Take hold of the corner of the selected label that is under the pointer. */
  #grab(place, pane) {
    const label = this.labels.features.get(this.selected);
    if (!label) return null;
    const geometry = structuredClone(label.feature.geometry);
    const reach = GRAB_PX / pane.transform().scale;
    for (const ring of ringsOf(geometry)) {
      const at = ring.findIndex(([x, y]) => Math.hypot(x - place.x, y - place.y) < reach);
      if (at < 0) continue;
      const held = {
        label, geometry, moved: false,
        move: ({ x, y }) => {
          held.moved = true;
          ring[at] = [x, y];
          if (at === 0) ring[ring.length - 1] = [x, y]; // a ring ends where it begins
        },
      };
      return held;
    }
    return null;
  }

  #withClass(use) {
    const entry = this.currentClass();
    if (entry) use(entry);
  }

  /** Draw what is not a label yet; ``context`` is in level-0 px. */
  drawOn(context, scale) {
    const color = this.tool === "erase" ? "#ffffff" : this.currentClass()?.color ?? "#7f7f7f";
    context.lineWidth = 2 / scale;
    context.strokeStyle = color;
    if (this.stroke?.radius) {
      context.save();
      context.globalAlpha = 0.5;
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = 2 * this.stroke.radius;
      context.beginPath();
      const [[x, y], ...rest] = this.stroke.points;
      context.moveTo(x, y);
      context.lineTo(x + 0.01, y);
      for (const [px, py] of rest) context.lineTo(px, py);
      context.stroke();
      context.restore();
    }
    for (const tile of this.stroke?.tiles?.values() ?? []) {
      const { x, y, side } = tileBox(this.grid(), tile);
      context.strokeRect(x, y, side, side);
    }
    if (this.outline.length) {
      context.beginPath();
      this.outline.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (this.pointer) context.lineTo(this.pointer.x, this.pointer.y);
      context.stroke();
    }
    if (this.pointer && (this.tool === "brush" || this.tool === "erase")) {
      context.beginPath();
      context.arc(this.pointer.x, this.pointer.y, this.radius / scale, 0, 2 * Math.PI);
      context.strokeStyle = "#111";
      context.lineWidth = 1.5 / scale;
      context.stroke();
    }
    this.#drawCorners(context, scale);
  }

  #drawCorners(context, scale) {
    const label = this.labels.features.get(this.selected);
    if (!label) return;
    const side = 7 / scale;
    context.fillStyle = "#fff";
    context.strokeStyle = "#111";
    context.lineWidth = 1.5 / scale;
    for (const ring of ringsOf(this.corner?.geometry ?? label.feature.geometry)) {
      if (this.corner) {
        context.beginPath();
        ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.stroke();
      }
      for (const [x, y] of ring) {
        context.fillRect(x - side / 2, y - side / 2, side, side);
        context.strokeRect(x - side / 2, y - side / 2, side, side);
      }
    }
  }
}
