// @ts-check
// The picture on the screen: Konva's canvases, what is drawn on them, and the handles of the current object.

import "konva";
import { drawBox, drawGround, drawLayer, drawStroke, strokeTwice } from "./paint.js";
import { tint } from "./mask.js";
import { after, apply, carry, inverse, toCanvas } from "./view.js";

const { Konva } = /** @type {any} */ (globalThis);

export class Stage {
  /** @param {HTMLElement} element @param {any} model  what is to be seen (page.js) @param {any} on  {transformed(layer, matrix)} */
  constructor(element, model, on) {
    this.element = element;
    this.model = model;
    this.frames = []; // milliseconds between frames while something moves, for whoever measures
    this.stage = new Konva.Stage({ container: element, width: 1, height: 1 });
    this.picture = this._layer((surface) => this._drawPicture(surface));
    this.marks = this._layer((surface) => this._drawMarks(surface));
    this.handles = new Konva.Layer();
    this.stage.add(this.handles);
    this.frame = new Konva.Rect({ strokeEnabled: false, listening: false });
    this.hold = new Konva.Transformer({
      rotateAnchorOffset: 28, anchorSize: 12, anchorCornerRadius: 6, borderStrokeWidth: 1.5, flipEnabled: false, keepRatio: true, shouldOverdrawWholeArea: false,
      enabledAnchors: ["top-left", "top-right", "bottom-left", "bottom-right"], rotationSnaps: [0, 90, 180, 270], rotationSnapTolerance: 3,
      boundBoxFunc: (old, now) => (Math.abs(now.width) < 4 || Math.abs(now.height) < 4 ? old : now),
    });
    this.handles.add(this.frame, this.hold);
    this.frame.on("transform", () => this._handled(on, false));
    this.frame.on("transformend", () => this._handled(on, true));
    this.still = null; // what lies below something that moves
    this.recolour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    new ResizeObserver(() => this.resize()).observe(element);
    this.resize();
  }

  _layer(draw) {
    const layer = new Konva.Layer({ listening: false });
    layer.add(new Konva.Shape({ sceneFunc: (context) => draw(context._context), perfectDrawEnabled: false }));
    this.stage.add(layer);
    return layer;
  }

  get screen() {
    return { width: this.stage.width(), height: this.stage.height() };
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    this.stage.size({ width, height });
    this.model.resized?.();
    this.draw();
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = { sheet: colour("--sheet"), check: colour("--check"), accent: "#2f6bff", onAccent: "#fff", halo: "rgba(255,255,255,.9)", bad: "#e0342b" };
    this.hold.setAttrs({ borderStroke: this.colours.accent, anchorStroke: this.colours.accent, anchorFill: "#fff" });
    this.tinted = this.still = null;
    this.draw();
  }

  /** Everything again, in the next frame. */
  draw() {
    this.picture.batchDraw();
    this.marks.batchDraw();
    this._place();
  }

  drawMarks() {
    this.marks.batchDraw();
  }

  /** Whether a point of the screen is on a handle, which then has the say. */
  onHandle(x, y) {
    return Boolean(this.hold.nodes().length && this.handles.getIntersection({ x, y }));
  }

  matrixOf(layer) {
    return this.model.moved.get(layer.id) ?? layer.matrix;
  }

  _drawPicture(surface) {
    const { doc, view, tiles, ghost, before } = this.model;
    if (!doc) return;
    const ratio = this.picture.getCanvas().getPixelRatio();
    tiles.begin();
    const seen = doc.layers.filter((layer) => layer.visible && layer.opacity > 0 && layer.id !== this.model.hidden);
    const first = ghost ? seen.length : seen.findIndex((layer) => this.model.moved.has(layer.id));
    if (first < 0) this._drawLayers(surface, ratio, seen, true);
    else {
      this._drawStill(surface, ratio, seen.slice(0, first));
      this._drawLayers(surface, ratio, seen.slice(first), false);
    }
    if (ghost) this._drawGhost(surface, ghost);
    if (before) {
      surface.save();
      surface.beginPath();
      surface.rect(0, 0, before.at * this.screen.width, this.screen.height);
      surface.clip();
      drawGround(surface, view, this.model.size, this.colours);
      drawLayer(surface, view, this.screen, ratio, before.layer, before.layer.matrix, tiles, (z, x, y) => this.model.tileUrl(z, x, y, null, before.rev));
      surface.restore();
      surface.fillStyle = this.colours.halo;
      surface.fillRect(before.at * this.screen.width - 1.5, 0, 3, this.screen.height);
    }
    tiles.end();
  }

  _drawLayers(surface, ratio, layers, ground) {
    const { view, tiles } = this.model;
    if (ground) drawGround(surface, view, this.model.size, this.colours);
    for (const layer of layers) drawLayer(surface, view, this.screen, ratio, layer, this.matrixOf(layer), tiles, (z, x, y) => this.model.tileUrl(z, x, y, layer.id));
  }

  /** What lies below something that moves: drawn once, and copied for as long as it looks the same. */
  _drawStill(surface, ratio, layers) {
    const { view, tiles, doc } = this.model, { width, height } = this.screen;
    const key = [view.scale, view.x, view.y, width, height, ratio, doc.rev, tiles.version, ...layers.map((layer) => layer.id)].join();
    if (this.still?.key !== key) {
      const canvas = this.still?.canvas ?? document.createElement("canvas");
      Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) }); // which clears it
      const beside = canvas.getContext("2d");
      beside.scale(ratio, ratio);
      this._drawLayers(beside, ratio, layers, true);
      this.still = { key: tiles.whole ? key : "", canvas }; // what lacks tiles is drawn again
    }
    surface.drawImage(this.still.canvas, 0, 0, width, height);
  }

  /** What is dragged before the server has cut it out: its pixels as they were on the screen, and its place dimmed. */
  _drawGhost(surface, { canvas, hole, box, dx, dy }) {
    const { view } = this.model;
    const at = (x, y) => [x * view.scale + view.x, y * view.scale + view.y];
    const [w, h] = [(box[2] - box[0]) * view.scale, (box[3] - box[1]) * view.scale];
    if (hole) surface.drawImage(hole, ...at(box[0], box[1]), w, h);
    surface.drawImage(canvas, ...at(box[0] + dx, box[1] + dy), w, h);
  }

  /** A part of the picture as it is seen, cut by a mask, and what to show in its place. */
  cut(shape) {
    const { view, doc, tiles } = this.model;
    const [x0, y0, x1, y1] = shape.box;
    const k = Math.min(view.scale * devicePixelRatio, 1, 1600 / Math.max(x1 - x0, y1 - y0));
    const make = () => Object.assign(document.createElement("canvas"), { width: Math.max(Math.ceil((x1 - x0) * k), 1), height: Math.max(Math.ceil((y1 - y0) * k), 1) });
    const canvas = make(), hole = make();
    const surface = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const near = { scale: k, x: -x0 * k, y: -y0 * k };
    for (const layer of doc.layers)
      if (layer.visible) drawLayer(surface, near, { width: canvas.width, height: canvas.height }, 1, layer, this.matrixOf(layer), tiles, (z, x, y) => this.model.tileUrl(z, x, y, layer.id));
    const lay = (on) => on.drawImage(shape.canvas, (shape.x - x0) * k, (shape.y - y0) * k, shape.canvas.width * shape.k * k, shape.canvas.height * shape.k * k);
    surface.globalCompositeOperation = "destination-in";
    lay(surface);
    const dim = /** @type {CanvasRenderingContext2D} */ (hole.getContext("2d"));
    lay(dim);
    dim.globalCompositeOperation = "source-in";
    dim.fillStyle = this.colours.check;
    dim.fillRect(0, 0, hole.width, hole.height);
    return { canvas, hole, box: shape.box };
  }

  _drawMarks(surface) {
    const { doc, view, shape, marks, stroke, dragged, cursor, crosshair, before, ghost } = this.model;
    if (!doc || before) return;
    if (shape && !ghost) {
      if (this.tinted?.shape !== shape) this.tinted = { shape, canvas: tint(shape, this.colours.accent) };
      surface.save();
      surface.translate(view.x, view.y);
      surface.scale(view.scale, view.scale);
      surface.globalAlpha = 0.28;
      const { canvas } = this.tinted;
      surface.drawImage(canvas, shape.x, shape.y, canvas.width * shape.k, canvas.height * shape.k);
      surface.globalAlpha = 1;
      strokeTwice(surface, shape.path, this.colours, { scale: view.scale });
      surface.restore();
    }
    for (const mark of marks) drawBox(surface, view, mark.box, mark.words, this.colours, mark.dashed);
    if (stroke) drawStroke(surface, view, stroke.points, stroke.width, stroke.inside ? this.colours.accent : this.colours.bad);
    if (dragged) drawBox(surface, view, dragged, "", this.colours, true);
    if (cursor) {
      const ring = new Path2D();
      ring.arc(cursor.x, cursor.y, Math.max(cursor.radius, 2), 0, 7);
      strokeTwice(surface, ring, cursor.inside ? this.colours : { ...this.colours, accent: this.colours.bad }, { width: 1.2 });
    }
    if (crosshair) {
      const [x, y] = [crosshair[0] * view.scale + view.x, crosshair[1] * view.scale + view.y];
      const cross = new Path2D(`M${x - 14} ${y}h28M${x} ${y - 14}v28`);
      strokeTwice(surface, cross, this.colours);
    }
  }

  /** The handles around the current object. */
  _place() {
    const { view, current, tool } = this.model;
    const layer = tool === "move" && !this.model.before && !this.model.ghost && current;
    if (!layer || layer.kind === "photo") {
      if (this.hold.nodes().length) this.hold.nodes([]);
      this.handles.batchDraw();
      return;
    }
    if (!this.hold.isTransforming()) {
      const s = view.scale;
      const m = after([s, 0, view.x, 0, s, view.y], this.matrixOf(layer));
      const parts = new Konva.Transform([m[0], m[3], m[1], m[4], m[2], m[5]]).decompose();
      this.frame.setAttrs({ ...parts, width: layer.size[0], height: layer.size[1] });
      if (this.hold.nodes()[0] !== this.frame) this.hold.nodes([this.frame]);
      this.hold.forceUpdate();
    }
    this.handles.batchDraw();
  }

  _handled(on, done) {
    const { view, current } = this.model;
    if (!current) return;
    const [a, d, b, e, c, f] = this.frame.getTransform().getMatrix();
    const s = view.scale;
    const matrix = after(inverse([s, 0, view.x, 0, s, view.y]), [a, b, c, d, e, f]);
    this.model.moved.set(current.id, matrix);
    this.picture.batchDraw();
    if (done) on.transformed(current, matrix);
  }

  /** The uppermost object under a point of the canvas, by its box. */
  layerAt(x, y) {
    for (const layer of [...this.model.doc.layers].reverse()) {
      if (layer.kind === "photo" || !layer.visible) continue;
      const [lx, ly] = apply(inverse(this.matrixOf(layer)), x, y);
      if (lx >= 0 && ly >= 0 && lx < layer.size[0] && ly < layer.size[1]) return layer;
    }
    return null;
  }

  /** Where an event is, on the screen and on the canvas. */
  at(event) {
    const box = this.element.getBoundingClientRect();
    const [sx, sy] = [event.clientX - box.left, event.clientY - box.top];
    const [x, y] = toCanvas(this.model.view, sx, sy);
    return { sx, sy, x, y };
  }
}

/** Where a layer lies on the canvas. */
export const boxOnCanvas = (layer, matrix) => carry(matrix, [0, 0, layer.size[0], layer.size[1]]);
