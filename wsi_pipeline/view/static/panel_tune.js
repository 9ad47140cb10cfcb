// The panel "Tune": settings of mask and tiles, tried on this slide and kept as TOML.

import { get, post, slideUrl } from "./api.js";
import { h, notify, slider } from "./dom.js";

const PAUSE_MS = 250;

/** What is being tried; the newest answer wins. */
export class Tuning {
  constructor({ tried, changed }) {
    this.tried = tried;
    this.changed = changed;
    this.settings = null;
    this.result = null;
    this.kept = "";
    this.asked = 0;
  }

  async load() {
    try {
      this.settings ??= await get("/api/tune");
    } catch (error) {
      notify(error.message);
    }
    this.changed();
  }

  values() {
    const found = {};
    for (const { stage, key, value } of this.settings) (found[stage] ??= {})[key] = value;
    return found;
  }

  set(setting, value, slide) {
    setting.value = value;
    this.kept = "";
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.#ask(slide), PAUSE_MS);
  }

  async #ask(slide) {
    const mine = (this.asked += 1);
    try {
      const result = await post(slideUrl(slide, "/tune"), this.values());
      if (mine !== this.asked) return;
      this.result = result;
      await this.tried(slide, result);
    } catch (error) {
      notify(error.message);
    }
    this.changed();
  }

  async keep() {
    try {
      this.kept = (await post("/api/tune", this.values())).path;
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
  if (!tuning.settings) {
    tuning.load();
    return [h("p", { class: "soft" }, "One moment.")];
  }
  return [
    h("h2", {}, "Tissue and tiles"),
    h("p", { class: "soft" }, "Tried on this slide at once; results stay as they are until the next run."),
    ...tuning.settings.map((setting) => field(page, setting)),
    tuning.result ? outcome(tuning.result) : null,
    h("button", { type: "button", id: "keep-tuned", class: "main", onclick: () => tuning.keep() }, "Keep for the next run"),
    tuning.kept ? [h("p", { id: "kept-tuned" }, "Kept. Use it by"), h("pre", {}, `--config ${tuning.kept}`)] : null,
  ];
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

function outcome({ funnel, tissue_mm2: area }) {
  return [
    h("h2", {}, "What it would give"),
    h("table", { id: "tuned" },
      h("tr", {}, h("td", {}, "tissue"), h("td", { class: "number" }, `${area.toFixed(3)} mm²`)),
      Object.entries(funnel).map(([reason, count]) => h("tr", {}, h("td", {}, reason.replaceAll("_", " ")), h("td", { class: "number" }, count)))),
  ];
}
