// @ts-check
// Mouse, pen and fingers over the picture. A stroke belongs to the pointer that began it, wherever it goes; two fingers
// push and enlarge; once a pen was seen, one finger pushes as well.

import { boxOf, lengthOf } from "./strokes.js";
import { pan, pinch, zoom } from "./view.js";

const TAP = 4; // pixels of the screen that a click may move

export class Hands {
  /**
   * @param {import("./stage.js").Stage} stage @param {any} model
   * @param {any} on  {stroke(points, width, event), click(x, y, event), box(box, event), grab(x, y) -> bool, drag(dx, dy), drop(), looked()}
   */
  constructor(stage, model, on) {
    this.stage = stage;
    this.model = model;
    this.on = on;
    this.pointers = new Map();
    this.work = /** @type {any} */ (null); // what the first pointer does: {kind, id, ...}
    this.pen = false;
    const { element } = stage;
    // Before Konva sees it: what is ours is not a handle's.
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event, false));
    element.addEventListener("pointercancel", (event) => this.up(event, true));
    element.addEventListener("pointerleave", () => this.hover(null));
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  down(event) {
    const { sx, sy, x, y } = this.stage.at(event);
    if (!this.model.doc || (event.pointerType !== "touch" && this.stage.onHandle(sx, sy)) || (event.pointerType === "touch" && !this.pointers.size && this.stage.onHandle(sx, sy))) return;
    this.stage.element.focus({ preventScroll: true });
    this.pen ||= event.pointerType === "pen";
    try {
      this.stage.element.setPointerCapture(event.pointerId);
    } catch { /* it is gone already */ }
    this.pointers.set(event.pointerId, { x: sx, y: sy });
    if (this.pointers.size === 2 && event.pointerType === "touch") return this.abandon("pinch");
    if (this.work || this.pointers.size > 1) return;
    const { tool } = this.model;
    const pushes = tool === "hand" || event.button === 1 || (this.pen && event.pointerType === "touch");
    const base = { id: event.pointerId, sx, sy, x, y };
    if (pushes) this.work = { ...base, kind: "pan" };
    else if (event.button !== 0) return;
    else if (tool === "move") {
      if (this.on.grab(x, y)) this.work = { ...base, kind: "drag" };
    } else if (tool === "box") this.work = { ...base, kind: "box" };
    else if (tool === "click") this.work = { ...base, kind: "click" };
    else {
      const width = this.model.brush / this.model.view.scale;
      this.work = { ...base, kind: "stroke", points: [[x, y]], width };
      this.model.stroke = { points: this.work.points, width, inside: this.inside(event) };
      this.stage.drawMarks();
    }
    this.cursor();
  }

  move(event) {
    const { sx, sy, x, y } = this.stage.at(event);
    const { work, model } = this;
    const known = this.pointers.get(event.pointerId);
    if (!known) return this.hover(event);
    const screen = this.stage.screen;
    if (work?.kind === "pinch" && this.pointers.size === 2) {
      const before = [...this.pointers.values()].map((p) => ({ ...p }));
      Object.assign(known, { x: sx, y: sy });
      this.look(pinch(model.view, before, [...this.pointers.values()], model.size, screen));
      return;
    }
    const [dx, dy] = [sx - known.x, sy - known.y];
    Object.assign(known, { x: sx, y: sy });
    if (!work || work.id !== event.pointerId) return;
    if (work.kind === "pan") this.look(pan(model.view, dx, dy, model.size, screen));
    else if (work.kind === "drag") this.on.drag(x - work.x, y - work.y);
    else if (work.kind === "box") {
      model.dragged = boxOf([work.x, work.y], [x, y], model.size);
      this.stage.drawMarks();
    } else if (work.kind === "stroke") {
      for (const each of event.getCoalescedEvents?.() ?? []) {
        const at = this.stage.at(each);
        work.points.push([at.x, at.y]);
      }
      work.points.push([x, y]);
      this.hover(event);
    }
  }

  up(event, lost) {
    const { x, y, sx, sy } = this.stage.at(event);
    this.pointers.delete(event.pointerId);
    const { work, model } = this;
    if (work?.kind === "pinch") {
      if (!this.pointers.size) this.work = null;
      return;
    }
    if (!work || work.id !== event.pointerId) return;
    this.work = null;
    model.stroke = model.dragged = null;
    const still = Math.hypot(sx - work.sx, sy - work.sy) < TAP;
    if (work.kind === "drag") lost ? this.on.drop(0, 0) : this.on.drop(x - work.x, y - work.y);
    else if (lost) this.stage.drawMarks();
    else if (work.kind === "click" && still) this.on.click(x, y, event);
    else if (work.kind === "box") {
      const box = boxOf([work.x, work.y], [x, y], model.size);
      if (box) this.on.box(box, event);
      else if (still) this.on.click(x, y, event);
    } else if (work.kind === "stroke") {
      const tap = lengthOf(work.points) * model.view.scale < TAP;
      if (tap && model.tool === "stroke") this.on.click(work.x, work.y, event);
      else this.on.stroke(work.points, work.width, event);
    }
    this.cursor();
    this.stage.drawMarks();
  }

  /** A second finger: whatever the first had begun is not meant. */
  abandon(kind) {
    if (this.work?.kind === "drag") this.on.drop(0, 0);
    this.model.stroke = this.model.dragged = null;
    this.work = { kind, id: -1 };
    this.stage.drawMarks();
  }

  inside(event) {
    return !(event.altKey || this.model.subtract);
  }

  /** The ring of the brush under a mouse or pen. */
  hover(event) {
    const { model } = this;
    const brushes = event && event.pointerType !== "touch" && (model.tool === "stroke" || model.tool === "brush");
    if (brushes) {
      const { sx, sy } = this.stage.at(event);
      model.cursor = { x: sx, y: sy, radius: model.brush / 2, inside: this.inside(event) };
    } else model.cursor = null;
    if (event && model.crosshair) model.crosshair = null;
    this.stage.drawMarks();
  }

  wheel(event) {
    event.preventDefault();
    const { model } = this;
    if (!model.doc) return;
    const { sx, sy } = this.stage.at(event);
    const lines = event.deltaMode === 1 ? 18 : 1;
    // A wheel of a mouse comes in large steps and means larger or smaller; a touchpad pushes, and pinches with Ctrl.
    const notch = event.deltaMode === 1 || (event.deltaX === 0 && Math.abs(event.deltaY) >= 100 && Number.isInteger(event.deltaY));
    if (event.ctrlKey || event.metaKey || notch) {
      const factor = Math.exp(-Math.max(Math.min(event.deltaY * lines, 150), -150) * (event.ctrlKey && !notch ? 0.01 : 0.002));
      this.look(zoom(model.view, factor, sx, sy, model.size, this.stage.screen));
    } else this.look(pan(model.view, -event.deltaX, -event.deltaY, model.size, this.stage.screen));
  }

  look(view) {
    this.model.view = view;
    this.on.looked();
  }

  cursor() {
    const { tool } = this.model;
    const names = { hand: "grab", move: "move", stroke: "none", brush: "none" };
    this.stage.element.dataset.cursor = this.work?.kind === "pan" ? "grabbing" : names[tool] ?? "";
  }
}
