// The page: one slide at a time, its maps and labels, and the panels that change them.

import { get, slideUrl } from "./api.js";
import { byId, h, notify } from "./dom.js";
import { Labels } from "./labels.js";
import { fetchGrid, fetchMap, fetchMask, makeGrid, paintMap, paintMask, tileAt, tileBox, valuesAt } from "./maps.js";
import { drawOverlays } from "./overlays.js";
import { Panes } from "./panes.js";
import { labelPanel } from "./panel_label.js";
import { Learning, learnPanel, showLearned } from "./panel_learn.js";
import { mapPanel, showUnder } from "./panel_map.js";
import { Trainings, trainPanel } from "./panel_train.js";
import { TISSUE, Tuning, tunePanel } from "./panel_tune.js";
import { SlideList } from "./slides.js";
import { change, listen, restore, state } from "./state.js";
import { TOOLS, Tools } from "./tools.js";

const TABS = [["map", "Map", mapPanel], ["label", "Label", labelPanel], ["learn", "Learn", learnPanel], ["train", "Train", trainPanel], ["tune", "Tune", tunePanel]];
const VIEWS = [["one", "Slide"], ["stains", "Stains"], ["compare", "Compare"]];
const UNDER_MS = 120;
const SAVED = { saved: "All labels saved", saving: "Saving", waiting: "Not saved yet: the server does not answer. Keep this page open." };

class Page {
  constructor(results, classes) {
    this.results = results;
    this.classes = classes;
    this.current = classes[0]?.name ?? "";
    this.about = null;
    this.maps = new Map();
    this.pictures = new Map();
    this.visited = -1;
    this.labels = new Labels(results.out, { changed: (changes) => this.#labelsChanged(changes), saved: (how) => showSaved(how) });
    this.learning = new Learning({ learned: (slide, result) => this.#learned(slide, result), changed: () => this.fillPanel("learn") });
    this.tissue = new Labels(results.out, { changed: (changes) => this.#tissueChanged(changes), saved: (how) => showSaved(how) }, "tissue");
    this.tuning = new Tuning({ tried: (slide, result) => this.#tried(slide, result), changed: () => this.fillPanel("tune") });
    this.trainings = new Trainings({ changed: () => this.fillPanel("train"), done: (job) => this.#trained(job) });
    this.panes = new Panes(byId("panes"), { draw: (...drawing) => this.#draw(...drawing), moved: (place) => place && change(place, { quiet: true }) });
    this.tools = new Tools(() => this.layer, {
      redraw: () => this.panes.redraw(), currentClass: () => (this.onTissue ? TISSUE : this.classes.find(({ name }) => name === this.current)), grid: () => this.grid,
      chosen: () => { this.fillTools(); this.fillPanel("label"); this.fillPanel("tune"); },
    });
    this.list = new SlideList(results.slides, new Map(classes.map(({ name, color }) => [name, color])), (id) => this.open(id));
    this.#listen();
  }

  /** Whether what is drawn is tissue, in the panel where it is asked for, and not a label. */
  get onTissue() {
    return state.tissue && state.tab === "tune";
  }

  get layer() {
    return this.onTissue ? this.tissue : this.labels;
  }

  /** Open a slide, at the place of the address if ``place`` says so. */
  async open(id, place = null) {
    if (innerWidth <= 800) document.body.classList.add("no-list");
    try {
      await this.show(await get(slideUrl(id)), place);
    } catch (error) {
      notify(`${id}: ${error.message}`);
    }
  }

  /** Show a slide that the server has told about. */
  async show(about, place) {
    const { id } = about;
    this.about = about;
    this.learning.reset();
    this.maps.clear();
    this.mask = null;
    this.preview = null;
    this.grid = null;
    this.tuning.reset();
    const names = about.maps.map(({ name }) => name);
    change({
      slide: id, map: names.includes(state.map) ? state.map : names[0] ?? "", map2: names.includes(state.map2) ? state.map2 : "",
      ...(place ?? { x: null, y: null, zoom: null }),
    }, { quiet: true });
    byId("title").textContent = id;
    document.title = `${id} · wsi-pipeline`;
    this.list.mark(id);
    this.#badges();
    // the slide appears while all that lies over it is fetched
    const [grid] = await Promise.all([fetchGrid(id, about.grid), this.labels.open(id), this.openTissue(), this.#loadMaps(), this.layout(place)]);
    if (this.about !== about) return;
    this.grid = grid;
    this.panes.redraw();
    this.fillPanel();
    document.body.dataset.ready = id;
  }

  /** Lay out the panes as the view asks. */
  async layout(place = this.panes.panes.length ? this.panes.place() : null) {
    const layouts = {
      one: [{ view: "rgb", caption: "", map: "map" }],
      stains: [{ view: "rgb", caption: "colours" }, { view: "hematoxylin", caption: "hematoxylin" }, { view: "eosin", caption: "eosin" }],
      compare: [{ view: "rgb", caption: state.map || "slide", map: "map" }, { view: "rgb", caption: state.map2 || "slide", map: "map2" }],
    };
    this.layers = layouts[state.view] ?? layouts.one;
    this.fillTools(); // first, for the slide is fitted into the room that is left
    await this.panes.show(this.about, this.layers, place?.zoom ? place : null);
    for (const pane of this.panes.panes) {
      this.tools.attach(pane);
      pane.element.addEventListener("pointermove", (event) => this.#point(pane, event));
    }
    this.fillTools();
  }

  /** Fetch the tissue that is drawn on, once it is wanted. */
  async openTissue(anew = false) {
    if (this.onTissue && (anew || this.tissue.slide !== this.about.id)) await this.tissue.open(this.about.id);
  }

  async #loadMaps() {
    for (const name of [state.map, state.map2]) {
      if (name && !this.maps.has(name)) this.maps.set(name, await fetchMap(this.about.id, name));
    }
    if (state.mask && !this.mask && this.about.mask_downsample) this.mask = await fetchMask(this.about.id);
    this.#paint();
  }

  #paint() {
    const colors = new Map(this.classes.map(({ name, color }) => [name, color]));
    this.pictures = new Map([...this.maps].map(([name, map]) => [name, { ...map, picture: paintMap(map, state, colors) }]));
    this.panes.redraw();
  }

  #draw(pane, context, scale, seen) {
    const layer = this.layers[pane.number];
    drawOverlays(context, scale, seen, {
      map: this.onTissue ? null : this.pictures.get(state[layer.map]), ...this.#maskAndTiles(), size: this.about.size_wh,
      opacity: state.opacity, labels: state.labels ? this.layer.features.values() : null, colorOf: (label) => this.#colorOf(label),
      suggested: this.grid && state.tab === "learn" ? this.learning.result?.suggested : null, lattice: this.grid,
    });
    this.tools.drawOn(context, scale);
  }

  /** Those of the run, or those of the settings that are being tried. */
  #maskAndTiles() {
    if (this.onTissue) return { mask: null, grid: state.outlines ? this.preview?.grid ?? this.grid : null }; // the slide must be seen
    if (state.tab === "tune" && this.preview) return { map: null, ...this.preview };
    return { mask: state.mask ? this.mask : null, grid: state.outlines ? this.grid : null };
  }

  async #tried(slide, { grid, reasons, mask }) {
    if (slide !== this.about?.id) return;
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    this.preview = { mask: await paintMask(new Blob([bytes(mask)])), grid: makeGrid(grid, bytes(reasons)) };
    this.panes.redraw();
  }

  #colorOf(label) {
    if (this.onTissue) return TISSUE.color;
    return this.classes.find(({ name }) => name === label.name)?.color ?? label.color ?? "#7f7f7f";
  }

  colorOfClass(map, name) {
    return this.classes.find((entry) => entry.name === name)?.color ?? map.colors[map.names.indexOf(name)];
  }

  #point(pane, event) {
    const box = pane.element.getBoundingClientRect();
    const place = pane.toSlide({ x: event.clientX - box.left, y: event.clientY - box.top });
    if (this.tools.tool !== "move") {
      this.tools.pointer = place;
      this.panes.redraw();
    }
    const tile = tileAt(this.grid, place.x, place.y);
    const shown = [...new Set(this.layers.map(({ map }) => state[map]))].map((name) => this.maps.get(name)).filter(Boolean);
    const values = shown.map((map) => ({ map, probabilities: valuesAt(map, place.x, place.y) ?? [] })).filter(({ probabilities }) => probabilities.length);
    const um = [place.x, place.y].map((v) => (v * this.about.mpp).toFixed(0));
    const words = [`x ${place.x.toFixed(0)}, y ${place.y.toFixed(0)} px (${um[0]}, ${um[1]} µm)`];
    if (tile) words.push(tile.index >= 0 ? `tile ${tile.index}` : `dropped: ${tile.reason}`);
    for (const { map, probabilities } of values) words.push(`${map.name}: ${[...probabilities].sort((a, b) => b.value - a.value).slice(0, 3).map(({ name, value }) => `${name} ${(100 * value).toFixed(0)} %`).join(", ")}`);
    byId("pointer").textContent = words.join("  ·  ");
    clearTimeout(this.pointing);
    this.pointing = setTimeout(() => { const under = byId("under"); if (under) showUnder(this, under, tile, values); }, UNDER_MS);
  }

  #labelsChanged(changes) {
    this.panes.redraw();
    this.fillPanel("label");
    if (Object.keys(changes).length && this.learning.automatic && document.body.dataset.ready === this.about?.id) this.learn();
  }

  #tissueChanged(changes) {
    this.panes.redraw();
    if (Object.keys(changes).length && document.body.dataset.ready === this.about?.id) this.tuning.again(this.about.id);
    this.fillPanel("tune");
  }

  learn() {
    this.learning.want(() => this.about.id);
  }

  async #learned(slide, { map }) {
    if (slide !== this.about.id) return;
    if (!this.about.maps.some(({ name }) => name === map)) this.about.maps.push({ name: map, kind: "classes" });
    this.maps.set(map, await fetchMap(slide, map));
    showLearned();
    this.#paint();
    this.fillPanel("map");
  }

  /** Show the map of a training that is done beside the first. */
  async #trained({ map }) {
    if (!this.about) return;
    try {
      this.about.maps = (await get(slideUrl(this.about.id))).maps;
      if (this.about.maps.some(({ name }) => name === map)) change({ view: "compare", map2: map });
    } catch (error) {
      notify(error.message);
    }
    this.fillPanel();
  }

  /** Go to a suggested tile. */
  visit(number) {
    const tile = this.learning.result?.suggested[number];
    if (!tile) return;
    this.visited = number;
    const { x, y, side } = tileBox(this.grid, tile);
    this.panes.goTo({ x: x + side / 2, y: y + side / 2, zoom: Math.min(1, 160 / side) });
  }

  chooseClass(number) {
    const entry = this.classes[number];
    if (!entry || this.onTissue) return;
    this.current = entry.name;
    if (this.tools.selected) this.tools.reclass(entry);
    else if (this.tools.tool === "move") this.tools.choose("tile");
    this.fillPanel("label");
    this.panes.redraw();
  }

  takeClasses(classes, current) {
    this.classes = classes;
    this.current = classes.some(({ name }) => name === current) ? current : classes[0]?.name ?? "";
    this.fillPanel();
    this.#paint();
  }

  fillTools() {
    const button = (text, pressed, onclick, title, id) => h("button", { type: "button", "aria-pressed": String(pressed), onclick, title, id }, text);
    byId("tools").replaceChildren(
      ...TOOLS.map(({ name, key, text, help }) => button(text, this.tools.tool === name, () => this.tools.choose(name), `${help} (${key.toUpperCase()})`, `tool-${name}`)),
      h("span", { class: "gap" }),
      ...VIEWS.map(([name, text]) => button(text, state.view === name, () => change({ view: name }), "", `view-${name}`)),
      h("span", { class: "gap" }),
      button("Tile grid", state.outlines, () => change({ outlines: !state.outlines }), "Tiles and why the rest was dropped (G)", "show-outlines"),
      button("Mask", state.mask, () => change({ mask: !state.mask }), "Tissue and pen (M)", "show-mask"),
      button("Labels", state.labels, () => change({ labels: !state.labels }), "Labels (A)", "show-labels"),
    );
    for (const pane of this.panes.panes) pane.element.classList.toggle("drawing", this.tools.tool !== "move");
  }

  /** Fill the panel anew; only if it shows ``tab``, where one is named. */
  fillPanel(tab = state.tab) {
    if (tab !== state.tab || !this.about) return;
    const focused = document.activeElement?.id;
    const content = byId("tab");
    const top = content.scrollTop;
    const fill = TABS.find(([name]) => name === state.tab)?.[2] ?? mapPanel;
    content.replaceChildren(...[fill(this)].flat(9).filter((part) => part !== null && part !== undefined && part !== false));
    content.scrollTop = top;
    if (focused && document.activeElement?.id !== focused) byId(focused)?.focus();
    byId("tabs").replaceChildren(...TABS.map(([name, text]) => h("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(state.tab === name), onclick: () => change({ tab: name }),
    }, text)));
  }

  #badges() {
    const { status, stain, flags, tiles } = this.about;
    byId("badges").replaceChildren(
      h("span", { class: `badge ${status === "done" ? "good" : "warn"}` }, status),
      h("span", { class: "badge soft" }, `${tiles} tiles`),
      stain ? h("span", { class: `badge ${stain === "ok" ? "good" : "warn"}`, title: flags.join("; ") }, `stain ${stain}`) : "",
      ...flags.map((flag) => h("span", { class: "badge warn" }, flag)),
    );
  }

  #listen() {
    listen(async (changed) => {
      const any = (...keys) => keys.some((key) => changed.has(key));
      try {
        if (any("map", "map2", "mask")) await this.#loadMaps();
        if (any("tab", "tissue")) {
          this.tools.cancel(); // what was chosen is of the other kind
          await this.openTissue();
        }
        if (any("view") || (any("map", "map2") && state.view === "compare")) await this.layout();
        if (any("threshold", "shown", "colors", "map", "map2")) this.#paint();
      } catch (error) {
        notify(error.message);
      }
      this.panes.redraw();
      this.fillTools();
      if (!any("opacity", "threshold")) this.fillPanel();
      else this.#later(() => this.fillPanel("map"));
    });
    byId("list-toggle").addEventListener("click", () => toggleList());
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  #later(work) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(work, 250);
  }

  #key(event) {
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range" && event.target.type !== "checkbox") return;
    if (byId("help").open) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") { event.preventDefault(); if (event.shiftKey) this.layer.redo(); else this.layer.undo(); }
      else if (key === "y") { event.preventDefault(); this.layer.redo(); }
      return;
    }
    if (event.altKey) return;
    const tool = TOOLS.find((entry) => entry.key === key);
    const neighbour = (step) => { const next = this.list.neighbour(step); if (next) this.open(next); };
    const suggestions = this.learning.result?.suggested.length ?? 0;
    const actions = {
      enter: () => this.tools.outline.length && this.tools.close(), escape: () => this.tools.cancel(), delete: () => this.tools.remove(), backspace: () => this.tools.remove(),
      "[": () => this.tools.resize(false), "]": () => this.tools.resize(true),
      d: () => change(this.onTissue ? { tissue: false } : { tab: "tune", tissue: true }),
      g: () => change({ outlines: !state.outlines }), m: () => change({ mask: !state.mask }), a: () => change({ labels: !state.labels }),
      h: () => change({ opacity: state.opacity > 0 ? 0 : 0.6 }), c: () => change({ view: state.view === "compare" ? "one" : "compare" }),
      l: () => toggleList(), j: () => neighbour(1), k: () => neighbour(-1), "?": () => byId("help").showModal(),
      n: () => suggestions && this.visit((this.visited + 1) % suggestions),
      "+": () => this.panes.panes[0]?.viewer.viewport.zoomBy(1.6), "-": () => this.panes.panes[0]?.viewer.viewport.zoomBy(1 / 1.6),
    };
    const step = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key];
    if (step && event.target.type !== "range") this.#pan(step);
    else if (tool) this.tools.choose(tool.name);
    else if (/^[1-9]$/.test(key)) this.chooseClass(Number(key) - 1);
    else if (actions[key]) actions[key]();
    else return;
    if (event.target.type !== "range") event.preventDefault();
  }

  #pan([dx, dy]) {
    const { x, y, zoom } = this.panes.place();
    this.panes.goTo({ x: x + (dx * 120) / zoom, y: y + (dy * 120) / zoom, zoom });
  }
}

function toggleList() {
  const open = !document.body.classList.toggle("no-list");
  byId("list-toggle").setAttribute("aria-expanded", String(open));
}

function showSaved(how) {
  byId("saved").textContent = SAVED[how];
  byId("saved").className = how === "waiting" ? "bad" : "";
}

function fillHelp() {
  const keys = [
    ...TOOLS.map(({ key, text, help }) => [key.toUpperCase(), `${text}: ${help}`]),
    ["1 … 9", "class to label with"], ["Ctrl Z, Ctrl Y", "undo, redo"], ["[ ]", "brush smaller, larger"], ["Arrows, + −", "move, zoom"],
    ["H", "heatmap on and off"], ["G, M, A", "tile grid, mask, labels"], ["D", "draw the tissue"], ["C", "two maps side by side"], ["N", "next suggested tile"], ["J, K", "next and previous slide"], ["L", "list of slides"],
  ];
  byId("help").append(h("h2", {}, "Keys"), h("table", {}, keys.map(([key, text]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, text)))), h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")));
}

async function begin() {
  const said = restore();
  if (innerWidth <= 800) document.body.classList.add("no-list");
  fillHelp();
  try {
    // the list stays usable where the slide cannot be shown
    const first = get(`/api/first?slide=${encodeURIComponent(state.slide)}`).catch((error) => { notify(error.message); });
    const [results, classes, tuned] = await Promise.all([get("/api/results"), get("/api/classes"), get("/api/tune")]);
    const page = new Page(results, classes);
    page.tuning.take(tuned);
    if (!said.has("threshold")) state.threshold = page.tuning.threshold;
    const about = await first;
    if (about === null) notify("No slide of this run can be shown; see index.html for why they failed.");
    if (!about) return;
    const seen = page.show(about, about.id === state.slide && state.zoom ? { x: state.x, y: state.y, zoom: state.zoom } : null);
    await Promise.all([seen, page.trainings.refresh()]);
  } catch (error) {
    notify(error.message);
  }
}

begin();
