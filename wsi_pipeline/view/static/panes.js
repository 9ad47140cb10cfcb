// Viewers side by side, in step, with one canvas of overlays on each.

import { tileUrl } from "./api.js";
import { h } from "./dom.js";

const TILE_PX = 512;
const Seadragon = () => window.OpenSeadragon;

/** A viewer of one slide in one staining, and a canvas over it that is drawn in level-0 px. */
class Pane {
  constructor(slide, { view, caption }, draw, moved) {
    this.canvas = h("canvas", { class: "over" });
    this.caption = h("div", { class: "caption" }, caption);
    this.scale = h("div", { class: "scale" });
    const box = h("div", { class: "viewer" });
    this.element = h("div", { class: "pane" }, box, this.canvas, this.caption, this.scale);
    this.slide = slide;
    this.view = view;
    this.draw = draw;
    this.box = box;
    this.moved = moved;
  }

  /** Open the slide; the pane must be in the page, for a viewer measures itself. */
  open() {
    const { id, size_wh: [width, height], last_level: last, version } = this.slide;
    this.viewer = Seadragon()({
      element: this.box, drawer: "canvas", showNavigationControl: false, showNavigator: false,
      animationTime: 0.35, springStiffness: 9, maxZoomPixelRatio: 4, minZoomImageRatio: 0.7, visibilityRatio: 0.3,
      imageLoaderLimit: 6, maxImageCacheCount: 300, crossOriginPolicy: false, keyboardNavEnabled: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false }, gestureSettingsTouch: { dblClickToZoom: false },
      tileSources: {
        width, height, tileSize: TILE_PX, minLevel: Math.max(0, last - Math.ceil(Math.log2(Math.max(width, height) / 256))), maxLevel: last,
        getTileUrl: (level, x, y) => tileUrl(id, this.view, level, x, y, version),
      },
    });
    this.viewer.addHandler("update-viewport", () => this.redraw());
    this.viewer.addOnceHandler("tile-drawn", () => { performance.mark("first tile"); });
    this.viewer.addHandler("viewport-change", () => this.moved(this));
    new ResizeObserver(() => this.redraw()).observe(this.element);
    return new Promise((resolve) => { this.viewer.addOnceHandler("open", resolve); });
  }

  /** Screen px per level-0 px, and where the slide's corner is. */
  transform() {
    const { viewport, world } = this.viewer;
    if (!world.getItemCount()) return null;
    const item = world.getItemAt(0);
    const corner = item.imageToViewerElementCoordinates(new (Seadragon().Point)(0, 0));
    const end = item.imageToViewerElementCoordinates(new (Seadragon().Point)(this.slide.size_wh[0], 0));
    return viewport && { x: corner.x, y: corner.y, scale: (end.x - corner.x) / this.slide.size_wh[0] };
  }

  /** Place of a point of the screen (CSS px within the pane) in level-0 px. */
  toSlide(point) {
    const { x, y, scale } = this.transform();
    return { x: (point.x - x) / scale, y: (point.y - y) / scale };
  }

  redraw() {
    const place = this.transform();
    if (!place) return;
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(place.scale * ratio, 0, 0, place.scale * ratio, place.x * ratio, place.y * ratio);
    const seen = { left: -place.x / place.scale, top: -place.y / place.scale, right: (width - place.x) / place.scale, bottom: (height - place.y) / place.scale };
    this.draw(this, context, place.scale, seen);
    this.#drawScale(place.scale);
  }

  #drawScale(scale) {
    const um = (100 * this.slide.mpp) / scale; // of about 100 px
    const step = 10 ** Math.floor(Math.log10(um));
    const round = [5, 2, 1].map((n) => n * step).find((n) => n <= um) ?? step;
    this.scale.style.width = `${(round / this.slide.mpp) * scale}px`;
    this.scale.textContent = round >= 1000 ? `${round / 1000} mm` : `${round} µm`;
  }

  close() {
    this.viewer?.destroy();
    this.element.remove();
  }
}

/** The panes of the page: they show the same place of one slide. */
export class Panes {
  constructor(container, { draw, moved }) {
    this.container = container;
    this.draw = draw;
    this.moved = moved;
    this.panes = [];
    this.following = false;
  }

  /** Show a slide in one pane per entry of ``layout``; at ``place`` if given. */
  async show(slide, layout, place) {
    this.close();
    this.panes = layout.map((entry, number) => {
      const pane = new Pane(slide, entry, this.draw, (source) => this.#follow(source));
      pane.number = number;
      this.container.append(pane.element);
      return pane;
    });
    await Promise.all(this.panes.map((pane) => pane.open()));
    if (place) this.goTo(place, true);
    this.redraw();
  }

  get first() {
    return this.panes[0];
  }

  #follow(source) {
    if (this.following) return;
    this.following = true;
    const { viewport } = source.viewer;
    for (const pane of this.panes) {
      if (pane === source || !pane.viewer?.world.getItemCount()) continue;
      pane.viewer.viewport.zoomTo(viewport.getZoom(), null, true);
      pane.viewer.viewport.panTo(viewport.getCenter(), true);
    }
    this.following = false;
    if (source === this.first) this.moved(this.place());
  }

  /** Centre in level-0 px, and screen px per level-0 px. */
  place() {
    const { viewport, world } = this.first.viewer;
    if (!world.getItemCount()) return null;
    const centre = world.getItemAt(0).viewportToImageCoordinates(viewport.getCenter());
    return { x: centre.x, y: centre.y, zoom: world.getItemAt(0).viewportToImageZoom(viewport.getZoom()) };
  }

  goTo({ x, y, zoom }, at_once = false) {
    const { viewport, world } = this.first.viewer;
    const item = world.getItemAt(0);
    viewport.zoomTo(item.imageToViewportZoom(zoom), null, at_once);
    viewport.panTo(item.imageToViewportCoordinates(x, y), at_once);
    viewport.applyConstraints(at_once);
  }

  redraw() {
    for (const pane of this.panes) pane.redraw();
  }

  close() {
    for (const pane of this.panes) pane.close();
    this.panes = [];
  }
}
