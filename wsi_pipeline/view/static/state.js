// What is shown, kept in the address: a link opens the same slide, place, maps and colours.

const DEFAULTS = {
  slide: "", view: "one", map: "", map2: "", shown: "", opacity: 0.6, threshold: 0,
  colors: "viridis", outlines: false, mask: false, labels: true, tab: "map", tissue: false,
  x: null, y: null, zoom: null,
};

const listeners = [];
export const state = { ...DEFAULTS };

/** Change what is shown, tell whoever listens, and keep it in the address. */
export function change(values, { quiet = false } = {}) {
  const changed = Object.keys(values).filter((key) => state[key] !== values[key]);
  if (!changed.length) return;
  Object.assign(state, values);
  keep();
  if (!quiet) for (const listener of listeners) listener(new Set(changed));
}

export function listen(listener) {
  listeners.push(listener);
}

let writing = 0;
function keep() {
  clearTimeout(writing);
  writing = setTimeout(write, 150);
}

function write() {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (value === DEFAULTS[key] || value === null) continue;
    words.set(key, typeof value === "number" ? String(Number(value.toFixed(4))) : String(value));
  }
  history.replaceState(null, "", `#${words}`);
}

/** Take what the address says; values of the wrong kind are left out. Returns what it says. */
export function restore() {
  const said = new Set();
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    if (!(key in DEFAULTS)) continue;
    said.add(key);
    const kind = ["x", "y", "zoom"].includes(key) ? "number" : typeof DEFAULTS[key];
    if (kind === "number" && Number.isFinite(Number(text))) state[key] = Number(text);
    else if (kind === "boolean") state[key] = text === "true";
    else if (kind === "string") state[key] = text;
  }
  return said;
}
