// Colour maps that people with any colour vision can read; stops of matplotlib's.

const STOPS = {
  viridis: "440154 482878 3e4a89 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
  cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
  magma: "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
};
export const COLOR_MAPS = Object.keys(STOPS);

export const parseColor = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

/** 256 colours of a map, as one array of R, G, B. */
export function ramp(name) {
  const stops = (STOPS[name] ?? STOPS.viridis).split(" ").map((stop) => parseColor(`#${stop}`));
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const place = (i / 255) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c += 1) {
      table[3 * i + c] = Math.round(stops[below][c] + (place - below) * (stops[below + 1][c] - stops[below][c]));
    }
  }
  return table;
}

export function drawRamp(canvas, name) {
  const table = ramp(name);
  canvas.width = 256;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i += 1) {
    context.fillStyle = `rgb(${table[3 * i]} ${table[3 * i + 1]} ${table[3 * i + 2]})`;
    context.fillRect(i, 0, 1, 1);
  }
}

/** Colours of why a tile was dropped; 0 is kept and has none. */
export const REASON_COLORS = [
  null, "#c9ced6", "#8d99a8", "#e69f00", "#111111", "#56b4e9", "#bbbbbb", "#cc79a7", "#999999", "#777777",
  "#dddddd", "#5d4037", "#00bfa5",
];

/** Colours of what the mask shows: glass, tissue, pen, black, edge, fold, blur, bubble. */
export const AREA_COLORS = [null, "#009e73", "#e69f00", "#111111", "#56b4e9", "#5d4037", "#cc79a7", "#00bfa5"];
