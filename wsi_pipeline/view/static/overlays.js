// Everything that is drawn over a slide: map, mask, tiles, labels, suggestions.

import { tileBox } from "./maps.js";

const FEWEST_TILE_PX = 9; // smaller tiles are drawn without their borders

/** Draw the overlays of one pane; ``context`` is in level-0 px, ``seen`` the part that shows. */
export function drawOverlays(context, scale, seen, layers) {
  const { map, mask, grid, size, opacity, labels, suggested, colorOf } = layers;
  context.imageSmoothingEnabled = false;
  if (map) {
    context.globalAlpha = opacity;
    context.drawImage(map.picture, 0, 0, map.cols * map.cell_px, map.rows * map.cell_px);
  }
  if (mask) {
    context.globalAlpha = 0.35;
    context.drawImage(mask, 0, 0, size[0], size[1]);
  }
  context.globalAlpha = 1;
  if (grid) drawTiles(context, scale, seen, grid);
  if (labels) drawLabels(context, scale, seen, labels, colorOf);
  if (suggested) drawSuggestions(context, scale, suggested, layers.lattice);
}

function drawTiles(context, scale, seen, grid) {
  context.globalAlpha = 0.4;
  context.drawImage(grid.picture, 0, 0, grid.cols * grid.pitch, grid.rows * grid.pitch);
  context.globalAlpha = 1;
  if (grid.pitch * scale < FEWEST_TILE_PX) return;
  const from = (low) => Math.max(0, Math.floor(low / grid.pitch) - 1);
  context.lineWidth = 1 / scale;
  context.strokeStyle = "#1c2430";
  context.beginPath();
  for (let row = from(seen.top); row < Math.min(grid.rows, seen.bottom / grid.pitch); row += 1) {
    for (let col = from(seen.left); col < Math.min(grid.cols, seen.right / grid.pitch); col += 1) {
      if (grid.index[row * grid.cols + col] < 0) continue;
      const { x, y, side } = tileBox(grid, { row, col });
      context.rect(x, y, side, side);
    }
  }
  context.stroke();
}

function drawLabels(context, scale, seen, labels, colorOf) {
  context.lineJoin = "round";
  for (const label of labels) {
    const { path, box } = label;
    if (!path || box.right < seen.left || box.left > seen.right || box.bottom < seen.top || box.top > seen.bottom) continue;
    const color = colorOf(label);
    context.fillStyle = color;
    context.globalAlpha = 0.22;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    // a light rim, for a label of a class lies on a map of the same colour
    for (const [style, width] of [["#ffffffd0", 5], [color, 2.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width / scale;
      context.stroke(path);
    }
  }
}

function drawSuggestions(context, scale, suggested, lattice) {
  suggested.forEach((tile, number) => {
    const { x, y, side } = tileBox(lattice, tile);
    for (const [color, dash] of [["#111", []], ["#ffe600", [6 / scale, 4 / scale]]]) {
      context.setLineDash(dash);
      context.lineWidth = 3 / scale;
      context.strokeStyle = color;
      context.strokeRect(x, y, side, side);
    }
    context.setLineDash([]);
    if (side * scale < 14) return;
    context.font = `600 ${13 / scale}px sans-serif`;
    context.lineWidth = 3 / scale;
    context.strokeStyle = "#111";
    context.strokeText(String(number + 1), x + 4 / scale, y + 15 / scale);
    context.fillStyle = "#ffe600";
    context.fillText(String(number + 1), x + 4 / scale, y + 15 / scale);
  });
}
