// The panel "Tune": settings of mask and tiles, and tissue that is drawn: tried on this slide, and
// kept as TOML and GeoJSON.

import { get, post, slideUrl } from "./api.js";
import { h, notify, slider } from "./dom.js";
import { change, state } from "./state.js";

const PAUSE_MS = 250;

export const TISSUE = { name: "Tissue", color: "#00796b" };

/** What is being tried, and kept at once; the newest answer wins. */
export class Tuning {
  constructor({ tried, changed }) {
    this.tried = tried;
    this.changed = changed;
    this.settings = [];
    this.options = [];
    this.result = null;
    this.asked = 0;
  }

  take({ settings, options }) {
    this.settings = settings;
    this.options = options;
  }

  values() {
    const found = {};
    for (const { stage, key, value } of this.settings) if (value !== null) (found[stage] ??= {})[key] = value;
    return found;
  }

  /** Least probability of the maps, as it was kept or as the run had it. */
  get threshold() {
    return this.settings.find(({ stage }) => stage === "results")?.value ?? 0;
  }

  set(setting, value, slide) {
    setting.value = value;
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.#keep(slide), PAUSE_MS);
  }

  keepThreshold(value) {
    const setting = this.settings.find(({ stage }) => stage === "results");
    if (setting) this.set(setting, value, null);
  }

  async #keep(slide) {
    await this.#post(this.values());
    if (slide) await this.again(slide);
  }

  async #post(values) {
    try {
      this.take(await post("/api/tune", values));
    } catch (error) {
      notify(error.message);
    }
    this.changed();
  }

  /** Go back to the settings of the run. */
  async forget(slide) {
    await this.#post(null);
    await this.again(slide);
  }

  /** Ask what the settings and the drawn tissue give on a slide. */
  async again(slide) {
    const mine = (this.asked += 1);
    try {
      const result = await post(slideUrl(slide, "/tune"), this.values());
      this.take(await get("/api/tune"));
      if (mine !== this.asked) return;
      this.result = result;
      await this.tried(slide, result);
    } catch (error) {
      notify(error.message);
    }
    this.changed();
  }

  reset() {
    this.result = null;
    this.asked += 1;
  }
}

export function tunePanel(page) {
  const { tuning } = page;
  return [
    h("h2", {}, "Tissue and tiles"),
    h("p", { class: "soft" }, "Tried on this slide at once; results stay as they are until the next run."),
    ...tuning.settings.filter(({ stage }) => stage !== "results").map((setting) => field(page, setting)),
    page.about.grid ? drawing(page) : null,
    tuning.result ? outcome(tuning.result) : null,
    tuning.options.length ? [
      h("h2", {}, "The next run"),
      h("p", { class: "soft", id: "kept-tuned" }, "Kept. Use it by"),
      h("pre", { id: "run-options" }, tuning.options.join(" ")),
      h("button", { type: "button", id: "forget-tuned", onclick: () => tuning.forget(page.about.id) }, "Settings as they were"),
    ] : null,
  ];
}

/** Tissue is drawn by the tools that labels are drawn by. */
function drawing(page) {
  const { tissue } = page;
  return [
    h("div", { class: "row" },
      h("button", { type: "button", id: "draw-tissue", "aria-pressed": String(page.onTissue), title: "Draw the tissue (D)", onclick: () => change({ tissue: !state.tissue }) }, "Draw the tissue"),
      page.onTissue ? [
        h("button", { type: "button", id: "undo-tissue", disabled: !tissue.undoable.length, onclick: () => tissue.undo() }, "Undo"),
        h("button", { type: "button", disabled: !tissue.redoable.length, onclick: () => tissue.redo() }, "Redo"),
        page.tools.selected ? h("button", { type: "button", onclick: () => page.tools.remove() }, "Remove the piece") : null,
        h("button", { type: "button", id: "forget-tissue", onclick: () => forgetTissue(page) }, "As it was found"),
      ] : null),
    page.onTissue ? h("p", { class: "soft" }, "Brush and outline add tissue, Erase takes it away, Edit moves corners and removes pieces.") : null,
  ];
}

async function forgetTissue(page) {
  try {
    await post(slideUrl(page.about.id, "/tissue"), null);
    await page.openTissue(true);
    await page.tuning.again(page.about.id);
  } catch (error) {
    notify(error.message);
  }
}

function field(page, setting) {
  const id = `tune-${setting.key}`;
  const set = (value) => page.tuning.set(setting, value, page.about.id);
  const name = `${setting.stage}: ${setting.key.replaceAll("_", " ").replace(" um2", " (µm²)")}`;
  if (setting.range === null) {
    const box = h("input", { type: "checkbox", id, onchange: () => set(box.checked) });
    box.checked = setting.value;
    return h("label", { class: "row", title: setting.help }, box, h("span", {}, name));
  }
  const [min, max, step] = setting.range;
  const part = slider(name, { id, min, max, step, value: setting.value, show: (value) => String(Number(value.toPrecision(6))), oninput: set });
  part.title = setting.help;
  return part;
}

function outcome({ funnel, tissue_mm2: area, pieces }) {
  return [
    h("h2", {}, "What it would give"),
    h("table", { id: "tuned" },
      h("tr", {}, h("td", {}, "tissue"), h("td", { class: "number" }, `${area.toFixed(3)} mm²`)),
      h("tr", {}, h("td", {}, "pieces of tissue"), h("td", { class: "number" }, pieces)),
      Object.entries(funnel).map(([reason, count]) => h("tr", {}, h("td", {}, reason.replaceAll("_", " ")), h("td", { class: "number" }, count)))),
  ];
}
