// The panel "Map": which map, which class, how it is coloured, and what lies under the pointer.

import { slideUrl } from "./api.js";
import { AREA_COLORS, COLOR_MAPS, REASON_COLORS, drawRamp } from "./colors.js";
import { h, percent, slider, swatch } from "./dom.js";
import { areas } from "./maps.js";
import { change, state } from "./state.js";

export function mapPanel(page) {
  const { about, grid, maps } = page;
  const map = maps.get(state.map);
  return [
    h("h2", {}, "Heatmap"),
    about.maps.length
      ? chooseMap("map", "Map", about.maps, [["", "none"]])
      : h("p", { class: "soft" }, "No model has predicted this slide yet. Label a few tiles to learn one."),
    map ? mapSettings(page, map) : null,
    about.maps.length > 1 || state.view === "compare" ? [h("h2", {}, "Compare"), chooseMap("map2", "Beside it", about.maps, [["", "slide alone"]], "compare")] : null,
    map && map.kind !== "attention" ? areaTable(page, map) : null,
    h("h2", {}, "Under the pointer"),
    h("div", { id: "under" }, h("p", { class: "soft" }, "Point at a tile.")),
    grid ? reasons(about) : null,
    state.mask ? legend("Mask", ["glass", "tissue", "pen", "black border", "glass edge", "fold", "blur", "bubble"], AREA_COLORS) : null,
    slideFacts(about),
  ];
}

function chooseMap(key, label, maps, others, view) {
  const select = h("select", { id: `choose-${key}`, onchange: () => change({ [key]: select.value, ...(view ? { view } : {}) }) },
    [...others, ...maps.map(({ name }) => [name, name])].map(([value, text]) => h("option", { value }, text)));
  select.value = state[key];
  return h("label", { class: "field" }, `${label} `, select);
}

function mapSettings(page, map) {
  const attention = map.kind === "attention";
  const classes = attention ? [] : [["", "most probable class"]];
  const select = h("select", { id: "shown", onchange: () => change({ shown: select.value }) },
    [...classes, ...map.names.map((name) => [name, name])].map(([value, text]) => h("option", { value }, text)));
  select.value = map.names.includes(state.shown) ? state.shown : attention ? map.names[0] : "";
  const colored = attention || select.value !== "";
  const canvas = h("canvas", { class: "ramp" });
  canvas.style.width = "100%";
  if (colored) drawRamp(canvas, state.colors);
  const colors = h("select", { id: "colors", onchange: () => change({ colors: colors.value }) }, COLOR_MAPS.map((name) => h("option", { value: name }, name)));
  colors.value = state.colors;
  return [
    h("label", { class: "field" }, "Show ", select),
    slider("Opacity", { id: "opacity", min: 0, max: 1, step: 0.05, value: state.opacity, show: percent, oninput: (opacity) => change({ opacity }, { quiet: false }) }),
    slider(attention ? "Least percentile" : "Least probability", { id: "threshold", min: 0, max: 1, step: 0.01, value: state.threshold, show: percent, oninput: (threshold) => { change({ threshold }); if (!attention) page.tuning.keepThreshold(threshold); } }),
    colored ? [h("label", { class: "field" }, "Colours ", colors), canvas, h("p", { class: "row soft" }, h("span", {}, "0"), h("span", { class: "gap" }), h("span", {}, attention ? "1 (percentile)" : "1 (probability)"))] : null,
  ];
}

function areaTable(page, map) {
  const mm2 = areas(map, page.about.mpp, state.threshold);
  const whole = [...mm2.values()].reduce((a, b) => a + b, 0);
  return [
    h("h2", {}, "Area of tiles by class"),
    h("table", { id: "areas" },
      map.names.map((name) => h("tr", {},
        h("td", {}, swatch(page.colorOfClass(map, name)), name),
        h("td", { class: "number" }, `${mm2.get(name).toFixed(3)} mm²`),
        h("td", { class: "number" }, whole ? percent(mm2.get(name) / whole, 1) : ""))),
    ),
    state.threshold > 0 ? h("p", { class: "soft" }, `Tiles at or above ${percent(state.threshold)} only.`) : null,
  ];
}

function reasons({ funnel }) {
  const entries = Object.entries(funnel);
  const names = ["kept", "glass", "little_tissue", "pen", "black", "edge", "outside_roi", "blur", "unlabelled", "annotated"];
  return [
    h("h2", {}, "Candidate tiles"),
    h("table", {}, entries.map(([reason, count]) => h("tr", {},
      h("td", {}, swatch(REASON_COLORS[names.indexOf(reason)] ?? "#ffffff"), reason.replaceAll("_", " ")),
      h("td", { class: "number" }, count)))),
  ];
}

function legend(title, names, colors) {
  return [h("h2", {}, title), h("p", {}, names.map((name, i) => (colors[i] ? h("span", { class: "badge" }, swatch(colors[i]), name) : null)))];
}

function slideFacts(about) {
  const [width, height] = about.size_wh;
  return [
    h("h2", {}, "Slide"),
    h("p", { class: "soft" }, `${width} × ${height} px, ${about.mpp.toPrecision(4)} µm/px (${about.mpp_source})`),
    h("p", { class: "soft" }, h("code", {}, about.path)),
  ];
}

/** Show the tile under the pointer: its pixels, reason and probabilities. */
export function showUnder(page, element, tile, values) {
  if (!tile) {
    element.replaceChildren(h("p", { class: "soft" }, "Not on the lattice of tiles."));
    return;
  }
  const rows = values.flatMap(({ map, probabilities }) => [
    values.length > 1 ? h("tr", {}, h("th", { colspan: 2 }, map.name)) : null,
    ...probabilities.map(({ name, value }) => h("tr", {}, h("td", {}, swatch(page.colorOfClass(map, name)), name), h("td", { class: "number" }, percent(value, 1)))),
  ]);
  element.replaceChildren(
    h("p", {}, `row ${tile.row}, column ${tile.col}: `, h("b", {}, tile.index >= 0 ? `tile ${tile.index}` : `dropped, ${tile.reason}`)),
    rows.length ? h("table", {}, rows) : "",
    tile.index >= 0 ? h("img", { class: "patch", src: slideUrl(page.about.id, `/patch/${tile.index}?v=${page.about.version}`), alt: "The tile's pixels" }) : "",
  );
}
