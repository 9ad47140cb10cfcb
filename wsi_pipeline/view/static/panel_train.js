// The panel "Train": a network trained on the labels, and its map beside the first.

import { get, post } from "./api.js";
import { h, notify } from "./dom.js";
import { change, state } from "./state.js";

const ASK_AGAIN_MS = 1500;
const STEPS = ["Tiles are gathered", "The network is trained", "Slides are predicted"];

/** The trainings of the folder; asked for again while one is under way. */
export class Trainings {
  constructor({ changed, done }) {
    this.changed = changed;
    this.done = done;
    this.recipes = [];
    this.jobs = [];
  }

  async refresh() {
    clearTimeout(this.asking);
    try {
      const before = this.jobs.find(({ state: how }) => how === "running");
      ({ recipes: this.recipes, jobs: this.jobs } = await get("/api/jobs"));
      const running = this.jobs.find(({ state: how }) => how === "running");
      if (running) this.asking = setTimeout(() => this.refresh(), ASK_AGAIN_MS);
      else if (before && this.jobs[0]?.state === "done") this.done(this.jobs[0]);
    } catch (error) {
      this.asking = setTimeout(() => this.refresh(), 2 * ASK_AGAIN_MS);
    }
    this.changed();
  }

  async start(slide, recipe, epochs) {
    try {
      await post("/api/jobs", { slide, recipe, epochs });
    } catch (error) {
      notify(error.message);
    }
    await this.refresh();
  }

  async stop(number) {
    await post(`/api/jobs/${number}/stop`, {}).catch((error) => notify(error.message));
    await this.refresh();
  }
}

export function trainPanel(page) {
  const { trainings } = page;
  const busy = trainings.jobs.some(({ state: how }) => how === "running");
  const recipe = h("select", { id: "recipe" }, trainings.recipes.map(({ name, title }) => h("option", { value: name }, title)));
  const epochs = h("input", { type: "number", id: "epochs", min: 1, max: 1000, placeholder: "of the recipe", "aria-label": "Epochs" });
  return [
    h("h2", {}, "Train a network on the labels"),
    h("p", { class: "soft" }, "What is learnt while you label is a linear layer. A network that is trained learns from the tiles without a label, too; its map appears beside the others."),
    h("label", { class: "field" }, "Recipe ", recipe),
    h("label", { class: "field" }, "Epochs at most ", epochs),
    h("button", { type: "button", id: "train", class: "main", disabled: busy, onclick: () => trainings.start(page.about.id, recipe.value, epochs.value ? Number(epochs.value) : null) }, "Train"),
    ...trainings.jobs.map((job) => card(page, job)),
  ];
}

function card(page, job) {
  const has = page.about.maps.some(({ name }) => name === job.map);
  const tone = { done: "good", failed: "bad", stopped: "warn" }[job.state] ?? "soft";
  return h("section", { class: "job" },
    h("h2", {}, `${job.map} `, h("span", { class: `badge ${tone}` }, job.state)),
    job.state === "running" ? [
      h("p", { class: "soft" }, STEPS[job.step], job.step === 1 ? `: epoch ${job.epoch} of at most ${job.epochs}` : ""),
      h("progress", { value: job.step + (job.step === 1 ? job.epoch / job.epochs : 0.3), max: 3 }),
      h("button", { type: "button", onclick: () => page.trainings.stop(job.number) }, "Stop"),
    ] : null,
    has && job.state === "done" ? h("button", { type: "button", class: "compare", onclick: () => change({ view: "compare", map: job.map, map2: state.map === job.map ? "learned" : state.map, tab: "map" }) }, "Compare") : null,
    h("details", {}, h("summary", { class: "soft" }, "Commands and log"), h("pre", {}, job.log || job.commands.join("\n"))));
}
