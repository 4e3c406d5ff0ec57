// @ts-check
// One picture that is worked on: what is known of it, what is on the screen, commands on their way.

import { Picture } from "./api.js";
import { at } from "./dom.js";
import { preferred } from "./engines.js";
import { Hands } from "./hands.js";
import { drawLayers } from "./layers.js";
import { covers, loadShape } from "./mask.js";
import { Outbox, Refused } from "./outbox.js";
import { pendingMarks } from "./proposals.js";
import { Stage, boxOnCanvas } from "./stage.js";
import { pack } from "./strokes.js";
import { Tiles } from "./tiles.js";
import { after, fit } from "./view.js";

const REST = 350; // milliseconds without work before a preview of a fill becomes the fill
/** @returns {import("./view.js").Matrix} */
const SHIFT = (dx, dy) => [1, 0, dx, 0, 1, dy];

export class Editor {
  /** @param {string} name @param {any} on  {tell(text), drawn(editor)} */
  constructor(name, on) {
    this.picture = new Picture(name);
    this.on = on;
    /** @type {any} */
    this.model = {
      doc: null, view: { scale: 1, x: 0, y: 0 }, size: { width: 1, height: 1 }, moved: new Map(), ghost: null, hidden: null, before: null, shape: null,
      marks: [], pointed: [], stroke: null, dragged: null, cursor: null, crosshair: null, current: null, tool: "stroke", mode: "new", brush: 28, touched: false,
      tileUrl: (z, x, y, layer, rev) => this.picture.tileUrl(rev ?? this.model.doc.rev, z, x, y, layer),
      resized: () => this.resized(),
    };
    this.model.tiles = new Tiles(this.picture.tile, () => this.tilesCame());
    this.stage = new Stage(at("stage"), this.model, { transformed: (layer, matrix) => this.transform(layer, matrix) });
    this.hands = new Hands(this.stage, this.model, {
      stroke: (points, width, event) => this.stroke(points, width, event), click: (x, y, event) => this.click(x, y, event),
      box: (box, event) => this.selectBox(box, event), grab: (x, y) => this.grab(x, y), drag: (dx, dy) => this.drag(dx, dy), drop: (dx, dy) => this.drop(dx, dy),
      looked: () => this.looked(),
    });
    const key = `studio-outbox-${name}`;
    this.outbox = new Outbox({
      send: (item) => this.picture.send(item), answered: (body) => this.show(body.state, body.damage), name: () => crypto.randomUUID(),
      reached: (there) => this.reached(there), wait: (ms) => new Promise((done) => setTimeout(done, ms)),
      store: { load: () => JSON.parse(sessionStorage.getItem(key) ?? "[]"), save: (items) => sessionStorage.setItem(key, JSON.stringify(items)) },
    });
    this.fillGesture = "";
    this.held = null; // what is dragged
    this.doing = 0;
    this.about = /** @type {any} */ ({}); // what the server offers
    this.chosen = /** @type {Record<string, string>} */ ({}); // engines by what they are for, where somebody chose
    this.note = ""; // what is told of the last command
    this.failed = false;
  }

  async start() {
    this.show(await this.picture.state(), null);
    this.outbox.rev = this.model.doc.rev;
    this.outbox.resume();
    this.fit();
  }

  // --- what is known ------------------------------------------------------------------------------------------

  /** A newer state of the picture. @param {any} doc @param {any} damage */
  show(doc, damage) {
    const { model } = this, known = model.doc;
    if (!doc || (known && doc.rev < known.rev)) return;
    const next = known && doc.rev === known.rev + 1;
    model.doc = doc;
    at("stage").dataset.rev = doc.rev;
    model.size = { width: doc.size[0], height: doc.size[1] };
    model.tiles.outdate([...doc.layers, ...(model.before ? [model.before.layer] : [])], next ? damage : null);
    model.current = doc.layers.find((layer) => layer.id === model.current?.id) ?? null;
    for (const id of model.moved.keys()) if (!doc.layers.some((layer) => layer.id === id)) model.moved.delete(id);
    if (JSON.stringify(doc.selection) !== JSON.stringify(known?.selection) || !next) this.reshape();
    const last = doc.talk.at(-1);
    model.marks = [...model.pointed, ...(last?.role === "assistant" && last.proposal.length ? pendingMarks(last.proposal, doc) : [])];
    drawLayers(doc, model.current, this.picture, this);
    this.on.drawn(this);
    this.stage.draw();
    this.later();
  }

  /** The mask of the selection, for the screen. */
  async reshape() {
    const { model } = this, { doc } = model;
    const wanted = (this.shaping = doc.rev);
    const box = doc.selection?.box;
    try {
      const shape = box ? await loadShape(box, model.size, (z, x, y) => this.picture.mask(doc.rev, z, x, y)) : null;
      if (this.shaping === wanted) model.shape = shape;
    } catch {
      if (this.shaping === wanted) model.shape = null; // a newer one is on its way, or nobody answers, which is told elsewhere
    }
    this.stage.drawMarks();
  }

  tilesCame() {
    const { ghost, tiles } = this.model;
    if (ghost && tiles.whole) {
      if (ghost.lifted) ghost.hole = null;
      if (ghost.dropped) this.model.ghost = this.model.hidden = null;
    }
    this.stage.picture.batchDraw();
    if (ghost && !this.model.ghost) this.stage.draw();
  }

  reached(there) {
    this.on.tell(there ? "" : "The server does not answer. What you do is kept and sent when it is back.");
  }

  /** Do something. Resolves with the answer, or null where it was refused, which is told. */
  async do(command, gesture = "") {
    this.busy(1);
    if (command.do !== "refine") this.on.noted(""); // what was told of the command before; a fill is part of it
    try {
      const answer = await this.outbox.add(command, gesture);
      if (answer.notes.length) this.on.noted(answer.notes.join(" "));
      return answer;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.on.noted(error.message, true);
      return null;
    } finally {
      this.busy(-1);
    }
  }

  /** How many commands are on their way. */
  busy(by) {
    this.doing += by;
    at("stage").setAttribute("aria-busy", String(this.doing > 0));
    if (this.model.doc) this.on.drawn(this);
  }

  /** Something that an engine makes: it waits in line, and comes when it is done. */
  make = (command) => this.inLine(async () => {
    await this.outbox.running; // it is about what was done before
    return this.picture.want(crypto.randomUUID(), command);
  });

  cancel = (id) => this.inLine(() => this.picture.unwant(id));

  async inLine(work) {
    try {
      this.heard(await work());
      this.on.hurry();
    } catch (error) {
      this.on.noted(error.message, true);
    }
  }

  /** Look for what others did, and what goes on beside. */
  async news() {
    const { rev, ...beside } = await this.picture.news();
    if (rev > this.model.doc.rev && !this.outbox.items.length) {
      this.show(await this.picture.state(), null);
      this.outbox.rev = Math.max(this.outbox.rev, this.model.doc.rev);
    } else this.heard(beside);
  }

  /** How far the preparation is, and what is being made. */
  heard(beside) {
    const { doc } = this.model;
    if (Object.entries(beside).every(([name, value]) => JSON.stringify(doc[name]) === JSON.stringify(value))) return;
    Object.assign(doc, beside);
    this.on.drawn(this);
  }

  /** When nothing else is going on, previews of fills become fills. */
  later() {
    clearTimeout(this.resting);
    if (!this.model.doc.holes) return;
    this.resting = setTimeout(() => {
      if (this.held || this.hands.work || this.outbox.items.length) this.later();
      else this.do({ do: "refine", engine: this.engineFor("inpaint") }, this.fillGesture);
    }, REST);
  }

  // --- the view -----------------------------------------------------------------------------------------------

  resized() {
    if (this.model.doc && !this.model.touched) this.fit();
    else this.on.looked?.(this);
  }

  fit() {
    this.model.view = fit(this.model.size, this.stage.screen);
    this.model.touched = false;
    this.stage.draw();
    this.on.looked(this);
  }

  looked() {
    this.model.touched = true;
    this.stage.draw();
    this.on.looked(this);
  }

  // --- selecting ----------------------------------------------------------------------------------------------

  /** New, or a correction of what is selected; `inside` says of which kind. */
  how(event, whole = false) {
    const mode = event?.altKey ? "subtract" : event?.shiftKey ? "add" : this.model.mode;
    const inside = mode !== "subtract";
    if (mode === "new" || !this.model.doc.selection) return { how: "new", inside };
    return { how: whole ? mode : "refine", inside };
  }

  stroke(points, width, event) {
    const path = pack(points, this.model.size);
    const { how, inside } = this.how(event);
    if (this.model.tool === "brush") return this.do({ do: "paint", path, width, erase: !inside });
    return this.do({ do: "select", strokes: [{ path, width, inside }], how, engine: this.engineFor("segment") });
  }

  click(x, y, event) {
    const { width, height } = this.model.size;
    if (x < 0 || y < 0 || x >= width || y >= height) return this.model.doc.selection && this.do({ do: "deselect" });
    const { how, inside } = this.how(event);
    return this.do({ do: "select", points: [[Math.round(x * 10) / 10, Math.round(y * 10) / 10, inside]], how, engine: this.engineFor("segment") });
  }

  selectBox(box, event) {
    return this.do({ do: "select", box, how: this.how(event, true).how, engine: this.engineFor("segment") });
  }

  selectWords(text) {
    return this.do({ do: "select", text, how: this.how(null, true).how, engine: this.engineFor("words") });
  }

  /** The name of the engine that is asked for a purpose. */
  engineFor(purpose) {
    return preferred(this.about.engines ?? [], this.chosen, purpose);
  }

  // --- moving -------------------------------------------------------------------------------------------------

  pick(layer) {
    this.model.current = this.model.current?.id === layer?.id ? null : layer;
    this.on.choose("move");
    drawLayers(this.model.doc, this.model.current, this.picture, this);
  }
  toggle(layer) {
    return this.do({ do: "layer", layer: layer.id, visible: !layer.visible });
  }
  dropLayer(layer) {
    return this.do({ do: "remove", layer: layer.id });
  }
  pickObject(object) {
    return this.do({ do: "pick_object", object: object.id });
  }
  dropObject(object) {
    return this.do({ do: "drop_object", object: object.id });
  }

  transform(layer, matrix) {
    return this.settle(layer.id, { do: "transform", layer: layer.id, matrix: matrix.map((v) => Math.round(v * 1e6) / 1e6) });
  }

  /** A command that puts a layer where the screen shows it already. */
  async settle(id, command, gesture = "") {
    await this.do(command, gesture);
    this.model.moved.delete(id);
    this.stage.draw();
  }

  /** Something is taken hold of with the move tool; whether there is something. */
  grab(x, y) {
    const { model } = this;
    if (model.shape && covers(model.shape, x, y)) {
      this.held = { gesture: crypto.randomUUID(), lift: null, layer: null };
      return true;
    }
    const layer = this.stage.layerAt(x, y);
    if (layer?.id !== model.current?.id) {
      model.current = layer;
      drawLayers(model.doc, layer, this.picture, this);
      this.stage.draw();
      this.on.drawn(this);
    }
    if (!layer) return false;
    this.held = { gesture: crypto.randomUUID(), layer, from: this.stage.matrixOf(layer) };
    return true;
  }

  drag(dx, dy) {
    const { held, model } = this;
    if (!held) return;
    if (held.layer) model.moved.set(held.layer.id, after(SHIFT(dx, dy), held.from));
    else {
      if (!held.lift) this.lift(held);
      Object.assign(model.ghost, { dx, dy });
    }
    this.stage.draw();
  }

  /** The server cuts it out while it is being dragged already. */
  lift(held) {
    const { model } = this;
    const ghost = (model.ghost = { ...this.stage.cut(model.shape), dx: 0, dy: 0, lifted: false, dropped: false });
    this.fillGesture = held.gesture;
    const known = new Set(model.doc.layers.map((layer) => layer.id));
    held.lift = this.do({ do: "lift", fill: "preview" }, held.gesture).then((answer) => {
      const layer = answer?.state.layers.find((each) => !known.has(each.id)) ?? null;
      if (!layer) model.ghost = null;
      model.current = layer;
      model.hidden = layer?.id ?? null;
      ghost.lifted = Boolean(layer);
      this.stage.draw();
      return layer;
    });
  }

  async drop(dx, dy) {
    const { held, model } = this;
    this.held = null;
    if (!held) return;
    [dx, dy] = [Math.round(dx), Math.round(dy)];
    if (held.layer) {
      if (!dx && !dy) return void (model.moved.delete(held.layer.id), this.stage.draw());
      model.moved.set(held.layer.id, after(SHIFT(dx, dy), held.from));
      return void (await this.settle(held.layer.id, { do: "move", layer: held.layer.id, dx, dy }, held.gesture));
    }
    if (!held.lift) return;
    const ghost = model.ghost;
    if (ghost) Object.assign(ghost, { dx, dy });
    const layer = await held.lift;
    if (!layer) return void this.stage.draw();
    if (dx || dy) await this.do({ do: "move", layer: layer.id, dx, dy }, held.gesture);
    model.hidden = null; // drawn below the ghost from now on, which stays until its tiles are here
    if (ghost) ghost.dropped = true;
    this.stage.draw();
    setTimeout(() => this.tilesCame(), 50);
  }

  /** Arrow keys: the object or what is selected moves at once, and is told of when the keys rest. */
  async nudge(dx, dy) {
    const { model } = this, layer = model.current;
    if (!layer) {
      if (!model.doc.selection || this.lifting) return;
      this.lifting = true;
      const gesture = (this.fillGesture = crypto.randomUUID()), known = new Set(model.doc.layers.map((each) => each.id));
      const answer = await this.do({ do: "lift", fill: "preview" }, gesture);
      this.lifting = false;
      model.current = answer?.state.layers.find((each) => !known.has(each.id)) ?? null;
      if (model.current) await this.settle(model.current.id, { do: "move", layer: model.current.id, dx, dy }, gesture);
      return;
    }
    const nudged = (this.nudged ??= { layer, dx: 0, dy: 0 });
    nudged.dx += dx;
    nudged.dy += dy;
    model.moved.set(layer.id, after(SHIFT(nudged.dx, nudged.dy), layer.matrix));
    this.stage.draw();
    clearTimeout(this.nudging);
    this.nudging = setTimeout(() => {
      this.nudged = null;
      this.settle(layer.id, { do: "move", layer: layer.id, dx: nudged.dx, dy: nudged.dy });
    }, REST);
  }

  /** The crosshair, for those who use keys. */
  steer(dx, dy) {
    const { model } = this, { width, height } = model.size;
    const [x, y] = model.crosshair ?? [width / 2, height / 2];
    model.crosshair = [Math.min(Math.max(x + dx, 0), width - 1), Math.min(Math.max(y + dy, 0), height - 1)];
    this.stage.drawMarks();
  }

  // --- before and after ---------------------------------------------------------------------------------------

  /** Show an earlier revision beside what is there now; null: no longer. */
  compare(rev) {
    const { model } = this;
    if (rev === null) model.before = null;
    else {
      const layer = { id: `before-${rev}`, raster: -1 - rev, size: model.doc.size, matrix: [1, 0, 0, 0, 1, 0], opacity: 1, visible: true, kind: "photo" };
      model.before = { rev, at: 0.5, layer };
    }
    this.stage.draw();
  }

  /** The box of what a command would be about: the object or the selection. */
  get box() {
    const { current, doc } = this.model;
    return current ? boxOnCanvas(current, current.matrix).map(Math.round) : doc.selection?.box ?? null;
  }
}
