// The panel "Label": classes with their colours, how many labels each has, and undoing.

import { post } from "./api.js";
import { h, notify, swatch } from "./dom.js";

const NEXT_COLORS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#7f7f7f"];

export function labelPanel(page) {
  return [
    h("h2", {}, "Classes"),
    h("div", { class: "chips", role: "radiogroup", "aria-label": "Class to label with" }, page.classes.map((entry, number) => chip(page, entry, number))),
    addClass(page),
    h("div", { class: "row" },
      h("button", { type: "button", id: "undo", disabled: !page.labels.undoable.length, onclick: () => page.labels.undo() }, "Undo"),
      h("button", { type: "button", id: "redo", disabled: !page.labels.redoable.length, onclick: () => page.labels.redo() }, "Redo"),
      page.tools.selected ? h("button", { type: "button", onclick: () => page.tools.remove() }, "Remove the label") : null),
    h("p", { class: "soft" }, "Every stroke is saved at once as GeoJSON that QuPath opens and writes:"),
    h("p", { class: "soft" }, h("code", {}, page.about.labels_file)),
    otherNames(page),
  ];
}

function chip(page, entry, number) {
  const count = [...page.labels.features.values()].filter(({ name }) => name === entry.name).length;
  const color = h("input", { type: "color", value: entry.color, "aria-label": `Colour of ${entry.name}`, onchange: () => keep(page, page.classes.map((other) => (other === entry ? { ...entry, color: color.value } : other))) });
  return h("div", { class: "row" },
    h("button", {
      type: "button", class: "class", role: "radio", "aria-checked": String(page.current === entry.name), "aria-pressed": String(page.current === entry.name),
      onclick: () => page.chooseClass(number),
    }, swatch(entry.color), number < 9 ? h("kbd", {}, number + 1) : null, ` ${entry.name}`),
    h("span", { class: "soft number" }, count), color,
    h("button", { type: "button", "aria-label": `Remove class ${entry.name}`, disabled: count > 0, title: count ? "It has labels" : "Remove the class", onclick: () => keep(page, page.classes.filter((other) => other !== entry)) }, "×"));
}

function addClass(page) {
  const name = h("input", { type: "text", id: "new-class", placeholder: "New class", "aria-label": "Name of a new class", maxlength: 200 });
  const add = () => {
    const text = name.value.trim();
    if (!text) return;
    const color = NEXT_COLORS.find((free) => !page.classes.some((entry) => entry.color === free)) ?? "#7f7f7f";
    keep(page, [...page.classes, { name: text, color }], text);
  };
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") add(); });
  return h("div", { class: "row" }, name, h("button", { type: "button", id: "add-class", onclick: add }, "Add"));
}

/** Labels of classes that are not in the list, such as those that QuPath wrote. */
function otherNames(page) {
  const known = new Set(page.classes.map(({ name }) => name));
  const others = [...new Set([...page.labels.features.values()].map(({ name }) => name).filter((name) => name && !known.has(name)))];
  if (!others.length) return null;
  return [
    h("h2", {}, "Other names in the file"),
    others.map((name) => {
      const color = [...page.labels.features.values()].find((label) => label.name === name)?.color ?? "#7f7f7f";
      return h("div", { class: "row" }, swatch(color), h("span", {}, name), h("button", { type: "button", onclick: () => keep(page, [...page.classes, { name, color }], name) }, "Make it a class"));
    }),
  ];
}

async function keep(page, classes, current = page.current) {
  try {
    page.takeClasses(await post("/api/classes", classes), current);
  } catch (error) {
    notify(error.message);
  }
}
