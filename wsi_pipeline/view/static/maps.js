// A raster of probabilities -> a small canvas, one pixel per cell, and sums over it.

import { decode, get, getBlob, getBytes, mapUrl, slideUrl } from "./api.js";
import { AREA_COLORS, REASON_COLORS, parseColor, ramp } from "./colors.js";

const NO_TILE = 255;
const MOST = NO_TILE - 1;

/** Fetch a map of a slide: its classes and one byte per cell and class. */
export async function fetchMap(slide, name) {
  const [about, values] = await Promise.all([get(mapUrl(slide, name)), getBytes(`${mapUrl(slide, name)}/values`)]);
  return { ...about, name, values };
}

/** Index of the most probable class of a cell, and its value; null where there is no tile. */
function best(map, cell) {
  const k = map.names.length;
  const from = cell * k;
  if (map.values[from] === NO_TILE) return null;
  let label = 0;
  for (let c = 1; c < k; c += 1) if (map.values[from + c] > map.values[from + label]) label = c;
  return { label, value: map.values[from + label] };
}

/** Paint a map: one class by a colour map, or the most probable class in its own colour. */
export function paintMap(map, { shown, threshold, colors }, classColors) {
  const { rows, cols, names, values } = map;
  const picture = new ImageData(Math.max(1, cols), Math.max(1, rows));
  const column = names.indexOf(shown);
  const single = column >= 0 || names.length === 1 || map.kind === "attention";
  const chosen = Math.max(0, column);
  const table = ramp(colors);
  const own = names.map((name, i) => parseColor(classColors.get(name) ?? map.colors[i]));
  for (let cell = 0; cell < rows * cols; cell += 1) {
    let value;
    let rgb;
    if (single) {
      value = values[cell * names.length + chosen];
      if (value === NO_TILE) continue;
      const at = 3 * Math.round((value / MOST) * 255);
      rgb = table.subarray(at, at + 3);
    } else {
      const found = best(map, cell);
      if (found === null) continue;
      value = found.value;
      rgb = own[found.label];
    }
    if (value / MOST < threshold) continue;
    picture.data.set([rgb[0], rgb[1], rgb[2], 255], 4 * cell);
  }
  return toCanvas(picture);
}

/** Area of each class in mm2: cells whose most probable class it is, at or above a threshold. */
export function areas(map, mpp, threshold) {
  const mm2 = new Map(map.names.map((name) => [name, 0]));
  if (map.kind === "attention") return mm2;
  const cell = ((map.cell_px * mpp) / 1000) ** 2;
  for (let i = 0; i < map.rows * map.cols; i += 1) {
    const found = best(map, i);
    if (found !== null && found.value / MOST >= threshold) {
      const name = map.names[found.label];
      mm2.set(name, mm2.get(name) + cell);
    }
  }
  return mm2;
}

/** Probabilities of the cell at a place, by class; null where there is no tile. */
export function valuesAt(map, x, y) {
  const row = Math.floor(y / map.cell_px);
  const col = Math.floor(x / map.cell_px);
  if (row < 0 || col < 0 || row >= map.rows || col >= map.cols) return null;
  const from = (row * map.cols + col) * map.names.length;
  if (map.values[from] === NO_TILE) return null;
  return map.names.map((name, i) => ({ name, value: map.values[from + i] / MOST }));
}

/** Fetch the lattice of tiles: the reason of every candidate, and numbers of those kept. */
export async function fetchGrid(slide, about) {
  if (!about || !about.lattice) return null;
  return makeGrid(about, await getBytes(slideUrl(slide, "/grid")));
}

export function makeGrid(about, reasons) {
  const index = new Int32Array(reasons.length).fill(-1);
  let kept = 0;
  for (let i = 0; i < reasons.length; i += 1) if (reasons[i] === 0) index[i] = kept++;
  return { ...about, values: reasons, index, kept, picture: paintCodes(reasons, about.cols, about.rows, REASON_COLORS) };
}

/** The tile at a place; null off the lattice or in a gap of it. */
export function tileAt(grid, x, y) {
  if (!grid) return null;
  const row = Math.floor(y / grid.pitch);
  const col = Math.floor(x / grid.pitch);
  if (row < 0 || col < 0 || row >= grid.rows || col >= grid.cols) return null;
  if (x - col * grid.pitch >= grid.extent || y - row * grid.pitch >= grid.extent) return null;
  const cell = row * grid.cols + col;
  return { row, col, index: grid.index[cell], reason: grid.reasons[grid.values[cell]] };
}

/** Corner and side of a tile in level-0 px, as whole as the store has them. */
export function tileBox(grid, { row, col }) {
  return { x: Math.round(col * grid.pitch), y: Math.round(row * grid.pitch), side: grid.extent };
}

export async function fetchMask(slide) {
  return paintMask(await getBlob(slideUrl(slide, "/mask")));
}

/** Paint a picture of areas, one code per pixel. */
export async function paintMask(blob) {
  const mask = await decode(blob);
  return paintCodes(mask.values, mask.width, mask.height, AREA_COLORS);
}

export function paintCodes(codes, width, height, colors) {
  const picture = new ImageData(Math.max(1, width), Math.max(1, height));
  const table = colors.map((color) => color && [...parseColor(color), 255]);
  for (let i = 0; i < width * height; i += 1) if (table[codes[i]]) picture.data.set(table[codes[i]], 4 * i);
  return toCanvas(picture);
}

function toCanvas(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}
