// The list of slides: thousands of them, found by name, ordered by what matters.

import { slideUrl } from "./api.js";
import { byId, h, percent } from "./dom.js";

const AT_ONCE = 50; // entries made at a time; more appear when the list is scrolled to its end

const ORDERS = {
  run: { text: "In the order of the run", of: null },
  trouble: { text: "Failed and flagged first", of: (a, b) => rank(a) - rank(b) },
  name: { text: "By name", of: (a, b) => a.id.localeCompare(b.id) },
};
const rank = (slide) => ({ failed: 0, empty: 1 })[slide.status] ?? (slide.flags.length ? 2 : 3);

export class SlideList {
  constructor(slides, colors, choose) {
    this.slides = slides;
    this.colors = colors;
    this.choose = choose;
    this.current = "";
    this.shown = [];
    const sort = byId("sort");
    sort.append(...Object.entries(ORDERS).map(([key, { text }]) => h("option", { value: key }, text)));
    sort.addEventListener("change", () => this.refresh());
    byId("filter").addEventListener("input", () => this.refresh());
    byId("slides").addEventListener("scroll", ({ target }) => {
      if (target.scrollTop + target.clientHeight > target.scrollHeight - 400) this.#more();
    });
    this.refresh();
  }

  refresh() {
    const words = byId("filter").value.toLowerCase();
    const order = ORDERS[byId("sort").value]?.of;
    this.found = this.slides.filter(({ id }) => id.toLowerCase().includes(words));
    if (order) this.found.sort(order);
    byId("listed").textContent = `${this.found.length} of ${this.slides.length} slides`;
    byId("slides").replaceChildren();
    this.made = 0;
    this.#more();
  }

  #more() {
    const next = this.found.slice(this.made, this.made + AT_ONCE);
    this.made += next.length;
    byId("slides").append(...next.map((slide) => this.#entry(slide)));
  }

  #entry(slide) {
    const shares = Object.entries(slide.shares).filter(([, share]) => share > 0);
    const bar = h("span", { class: "bar", title: shares.map(([name, share]) => `${name} ${slide.mm2[name].toFixed(2)} mm² (${percent(share)})`).join(", ") },
      shares.map(([name, share]) => h("span", { width: `${100 * share}%`, background: this.colors.get(name) ?? slide.colors[name] ?? "#7f7f7f" })));
    const failed = slide.status !== "done";
    const note = failed ? slide.status : slide.flags.length ? "flagged" : `${slide.tissue_mm2.toFixed(1)} mm² of tissue`;
    const button = h("button", {
      type: "button", disabled: slide.status === "failed", title: slide.error ?? slide.flags.join("; "),
      "aria-current": String(slide.id === this.current), onclick: () => this.choose(slide.id),
    },
    failed ? h("span", {}) : h("img", { src: slideUrl(slide.id, "/thumbnail"), alt: "", loading: "lazy" }),
    h("span", {}, h("span", { class: "name" }, slide.id), h("span", { class: failed ? "bad soft" : slide.flags.length ? "warn soft" : "soft" }, note), shares.length ? bar : null));
    const entry = h("li", {}, button);
    entry.dataset.slide = slide.id;
    return entry;
  }

  mark(id) {
    this.current = id;
    for (const entry of byId("slides").children) entry.firstChild.setAttribute("aria-current", String(entry.dataset.slide === id));
  }

  /** The slide after or before the current one, of those that can be opened. */
  neighbour(step) {
    const open = this.found.filter(({ status }) => status !== "failed");
    const at = open.findIndex(({ id }) => id === this.current);
    return open[(at + step + open.length) % open.length]?.id;
  }
}
