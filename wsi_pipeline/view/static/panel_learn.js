// The panel "Learn": what the labels teach, how good that is, and which tiles to label next.

import { post, slideUrl } from "./api.js";
import { h, percent, swatch } from "./dom.js";
import { change, state } from "./state.js";

const ASK_AGAIN_MS = 600;

/** Learns after every change of the labels, one request at a time. */
export class Learning {
  constructor({ learned, changed }) {
    this.learned = learned;
    this.changed = changed;
    this.automatic = true;
    this.reset();
  }

  reset() {
    this.result = null;
    this.problem = null;
    this.progress = null;
    this.wanted = false;
  }

  /** Learn now, or as soon as what is under way is done. */
  async want(slide) {
    this.wanted = true;
    if (this.running) return;
    this.running = true;
    while (this.wanted) {
      this.wanted = false;
      await this.#once(slide());
    }
    this.running = false;
  }

  async #once(slide) {
    try {
      const result = await post(slideUrl(slide, "/learn"), {});
      this.problem = result.problem ?? null;
      if (this.problem) this.progress = null;
      else if (result.ready) {
        this.progress = null;
        this.result = result;
        await this.learned(slide, result);
      } else {
        this.progress = result;
        this.wanted = true;
        await new Promise((resolve) => { setTimeout(resolve, ASK_AGAIN_MS); });
      }
    } catch (error) {
      this.progress = null;
      this.problem = error.message;
    }
    this.changed();
  }
}

export function learnPanel(page) {
  const { learning } = page;
  const automatic = h("input", { type: "checkbox", onchange: () => { learning.automatic = automatic.checked; } });
  automatic.checked = learning.automatic;
  return [
    h("h2", {}, "Learn from the labels"),
    h("label", { class: "row" }, automatic, h("span", {}, "Learn again after every stroke")),
    h("button", { type: "button", id: "learn-now", class: "main", onclick: () => page.learn() }, "Learn now"),
    learning.progress ? progress(learning.progress) : null,
    learning.problem ? h("p", { class: "warn", id: "learn-problem" }, learning.problem) : null,
    learning.result ? [verdict(page, learning.result), suggestions(page, learning.result)] : h("p", { class: "soft" }, "Label a few tiles of two classes. A frozen encoder looks at every tile once, which takes a minute or so; after that each stroke is answered at once."),
  ];
}

function progress({ done, total }) {
  return [h("p", { class: "soft" }, total ? `The encoder has seen ${done} of ${total} tiles.` : "The encoder is being loaded."), h("progress", { value: total ? done : null, max: total || null })];
}

function verdict(page, { judgement, counts, seconds }) {
  const colors = new Map(page.classes.map(({ name, color }) => [name, color]));
  const held = judgement.by === "slide" ? "slides" : "regions";
  return [
    h("h2", {}, "Accuracy where it had no labels"),
    judgement.accuracy === null
      ? h("p", { id: "accuracy" }, `Not known yet: label each class in at least two places that lie apart.`)
      : [
        h("p", { class: "figure", id: "accuracy" }, percent(judgement.accuracy)),
        h("p", {}, `95 % interval ${percent(judgement.low)} to ${percent(judgement.high)}, from ${judgement.groups} held-out ${held} with ${judgement.tiles} tiles.`),
        judgement.groups < 10 ? h("p", { class: "soft" }, `Few ${held}: the interval is wide. Label in more places to know more.`) : null,
      ],
    judgement.unjudged.length ? h("p", { class: "warn" }, `In one place only, so not judged: ${judgement.unjudged.join(", ")}.`) : null,
    h("table", {},
      h("tr", {}, h("th", {}, "class"), h("th", { class: "number" }, "tiles labelled"), h("th", { class: "number" }, "found again")),
      page.classes.map(({ name }, i) => h("tr", {},
        h("td", {}, swatch(colors.get(name)), name),
        h("td", { class: "number" }, counts[i] ?? 0),
        h("td", { class: "number" }, name in judgement.recall ? percent(judgement.recall[name]) : "")))),
    h("p", { class: "soft" }, `Learnt and drawn in ${seconds.toFixed(2)} s.`),
  ];
}

function suggestions(page, { suggested }) {
  if (!suggested.length) return null;
  return [
    h("h2", {}, "Most useful to label next"),
    h("p", { class: "soft" }, "Tiles the model is unsure of, none like another. N goes to the next."),
    h("div", { class: "tiles", id: "suggested" }, suggested.map(({ tile }, number) => h("button", {
      type: "button", title: `Suggestion ${number + 1}`, "aria-label": `Go to suggestion ${number + 1}`, onclick: () => page.visit(number),
    }, h("img", { src: slideUrl(page.about.id, `/patch/${tile}?v=${page.about.version}`), alt: "", loading: "lazy" })))),
  ];
}

export function showLearned() {
  if (state.map !== "learned" && state.map2 !== "learned") change({ map: "learned", shown: "" });
}
