// Elements from values. Text is always text: no string of a file is ever read as HTML.

/** Make an element: properties that begin with "on" listen, the rest are attributes. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "background") element.style.background = value;
    else if (name === "width") element.style.width = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Show what went wrong, until the next thing does or ten seconds are over. */
let hiding = 0;
export function notify(message) {
  const notice = byId("notice");
  notice.textContent = message;
  notice.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { notice.hidden = true; }, 10_000);
}

export function swatch(color) {
  return h("span", { class: "swatch", background: color });
}

/** Label, range and the value it has, as one field. */
export function slider(label, { min, max, step, value, show, oninput, id }) {
  const output = h("output", { class: "number" }, show(value));
  const input = h("input", {
    type: "range", min, max, step, value, id,
    oninput: () => { output.textContent = show(Number(input.value)); oninput(Number(input.value)); },
  });
  return h("label", { class: "field" }, label, output, input);
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
