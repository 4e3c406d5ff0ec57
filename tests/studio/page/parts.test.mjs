// The pure parts of the page: geometry, outlines, strokes, the outbox, keys. Run by test_parts.py with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { enginesFor, preferred } from "../../../llavakit/studio/page/engines.js";
import { meaning } from "../../../llavakit/studio/page/keys.js";
import { Outbox, Refused } from "../../../llavakit/studio/page/outbox.js";
import { trace } from "../../../llavakit/studio/page/outline.js";
import { pendingMarks } from "../../../llavakit/studio/page/proposals.js";
import { failures, looking } from "../../../llavakit/studio/page/preparing.js";
import { boxOf, lengthOf, pack, simplify } from "../../../llavakit/studio/page/strokes.js";
import { Tiles } from "../../../llavakit/studio/page/tiles.js";
import { after, apply, carry, fit, inverse, level, pan, pinch, tileBox, tilesIn, toCanvas, zoom } from "../../../llavakit/studio/page/view.js";

const close = (a, b, by = 1e-6) => assert.ok(Math.abs(a - b) < by, `${a} is not ${b}`);
function* draws(count, seed = 7) {
  for (let i = 0; i < count; i++) yield () => ((seed = (seed * 48271) % 2147483647) / 2147483647);
}
const PICTURE = { width: 8000, height: 6000 }, SCREEN = { width: 900, height: 700 };

test("zooming keeps the point under the pointer, and is undone by the inverse", () => {
  for (const draw of draws(50)) {
    const view = fit(PICTURE, SCREEN), x = 200 + draw() * 500, y = 150 + draw() * 400;
    const [cx, cy] = toCanvas(view, x, y), nearer = zoom(view, 1 + draw() * 5, x, y, PICTURE, SCREEN);
    const [nx, ny] = toCanvas(nearer, x, y);
    close(nx, cx, 1e-3), close(ny, cy, 1e-3);
    const back = zoom(nearer, view.scale / nearer.scale, x, y, PICTURE, SCREEN);
    close(back.scale, view.scale), close(back.x, view.x, 1e-3);
  }
});

test("the picture cannot be pushed or shrunk out of sight", () => {
  let view = fit(PICTURE, SCREEN);
  view = pan(view, 1e6, -1e6, PICTURE, SCREEN);
  assert.ok(view.x < SCREEN.width && view.y + PICTURE.height * view.scale > 0);
  for (let i = 0; i < 50; i++) view = zoom(view, 0.5, 10, 10, PICTURE, SCREEN);
  assert.ok(view.scale >= 0.2 * fit(PICTURE, SCREEN).scale);
});

test("two fingers that move together push, and that part enlarge", () => {
  const view = fit(PICTURE, SCREEN), two = [{ x: 300, y: 300 }, { x: 500, y: 300 }];
  const pushed = pinch(view, two, two.map((p) => ({ x: p.x + 20, y: p.y + 9 })), PICTURE, SCREEN);
  close(pushed.x - view.x, 20), close(pushed.y - view.y, 9), close(pushed.scale, view.scale);
  const larger = pinch(view, two, [{ x: 200, y: 300 }, { x: 600, y: 300 }], PICTURE, SCREEN);
  close(larger.scale, 2 * view.scale);
  close(toCanvas(larger, 400, 300)[0], toCanvas(view, 400, 300)[0], 1e-3);
});

test("matrices follow each other and go back", () => {
  for (const draw of draws(50)) {
    const any = () => [1 + draw(), draw() - 0.5, 99 * draw(), draw() - 0.5, 1 + draw(), 99 * draw()];
    const [m, n, x, y] = [any(), any(), 50 * draw(), 50 * draw()];
    const both = apply(after(m, n), x, y), steps = apply(m, ...apply(n, x, y));
    close(both[0], steps[0]), close(both[1], steps[1]);
    const there = apply(inverse(m), ...apply(m, x, y));
    close(there[0], x), close(there[1], y);
  }
  assert.deepEqual(carry([0, -1, 10, 1, 0, 0], [0, 0, 4, 2]), [8, 0, 10, 4]);
});

test("tiles cover what is in sight, once, and no level is coarser than the screen by much", () => {
  for (const draw of draws(40)) {
    const box = [draw() * 7000, draw() * 5000, 0, 0];
    box[2] = box[0] + 10 + draw() * 900, box[3] = box[1] + 10 + draw() * 900;
    const z = Math.floor(draw() * 5), tiles = tilesIn(box, z, PICTURE);
    assert.equal(new Set(tiles.map((t) => `${t.x},${t.y}`)).size, tiles.length);
    const covers = (x, y) => tiles.some((t) => { const [a, b, c, d] = tileBox(z, t.x, t.y, PICTURE); return x >= a && y >= b && x < c && y < d; });
    for (let i = 0; i < 20; i++) assert.ok(covers(box[0] + draw() * (Math.min(box[2], 7999) - box[0]), box[1] + draw() * (Math.min(box[3], 5999) - box[1])));
  }
  assert.equal(level(1, PICTURE), 0);
  assert.equal(level(4, PICTURE), 0);
  assert.ok(2 ** -level(0.1, PICTURE) >= 0.1 * 0.8);
  assert.equal(tilesIn([0, 0, 8000, 6000], level(0, PICTURE), PICTURE).length, 1);
});

test("an outline encloses exactly the pixels of the mask", () => {
  for (const draw of draws(30)) {
    const [w, h] = [3 + Math.floor(draw() * 9), 3 + Math.floor(draw() * 9)];
    const mask = Uint8Array.from({ length: w * h }, () => (draw() < 0.5 ? 255 : 0));
    const loops = trace(mask, w, h);
    const twice = loops.reduce((sum, loop) => sum + area2(loop), 0); // shoelace: holes count against it
    assert.equal(twice / 2, mask.filter((v) => v).length);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) assert.equal(winding(loops, x + 0.5, y + 0.5) !== 0, mask[y * w + x] > 0);
    for (const loop of loops) for (let i = 0; i < loop.length; i += 2) {
      const j = (i + 2) % loop.length;
      assert.ok((loop[i] === loop[j]) !== (loop[i + 1] === loop[j + 1]), "lines go across or down");
    }
  }
  assert.deepEqual(trace(new Uint8Array(9), 3, 3), []);
});

function area2(loop) {
  let sum = 0;
  for (let i = 0; i < loop.length; i += 2) {
    const j = (i + 2) % loop.length;
    sum += loop[i] * loop[j + 1] - loop[j] * loop[i + 1];
  }
  return sum;
}

function winding(loops, x, y) {
  let count = 0;
  for (const loop of loops) for (let i = 0; i < loop.length; i += 2) {
    const j = (i + 2) % loop.length, [x0, y0, y1] = [loop[i], loop[i + 1], loop[j + 1]];
    if (x0 > x && (y0 > y) !== (y1 > y)) count += y1 > y0 ? 1 : -1;
  }
  return count;
}

test("a simpler stroke ends where it ended and stays near", () => {
  for (const draw of draws(30)) {
    const points = [[500, 500]];
    for (let i = 0; i < 300; i++) points.push([points[i][0] + draw() * 8 - 4, points[i][1] + draw() * 8 - 4]);
    const line = simplify(points, 1.5);
    assert.deepEqual([line[0], line.at(-1)], [points[0], points.at(-1)]);
    assert.ok(line.length < points.length);
    for (const [x, y] of points) assert.ok(Math.min(...line.slice(1).map((p, i) => apart(x, y, line[i], p))) <= 1.5 + 1e-9);
  }
  assert.ok(pack(Array.from({ length: 5000 }, (_, i) => [i, (i * 7919) % 400]), PICTURE).length <= 400);
  assert.deepEqual(pack([[-5, 3.14159], [9000, 6500]], PICTURE), [[0, 3.1], [8000, 6000]]);
  assert.equal(boxOf([5, 5], [6, 90], PICTURE), null);
  assert.deepEqual(boxOf([90, 70], [10, -4], PICTURE), [10, 0, 90, 70]);
  close(lengthOf([[0, 0], [3, 4], [3, 5]]), 6);
});

function apart(x, y, [ax, ay], [bx, by]) {
  const dx = bx - ax, dy = by - ay, l = dx * dx + dy * dy, t = l ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / l, 0), 1) : 0;
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/** A server that numbers revisions and remembers answers by id, whose line can be cut. */
function server() {
  const known = new Map(), done = [];
  return {
    rev: 3, done, cut: 0, lose: 0,
    async send({ id, base_rev, command }) {
      if (this.cut-- > 0) throw new Error("no line");
      if (!known.has(id)) {
        if (base_rev !== this.rev) return { status: 409, body: { rev: this.rev, state: { rev: this.rev } } };
        if (command.bad) return { status: 422, body: { error: "it cannot be done" } };
        done.push(command);
        known.set(id, { rev: ++this.rev });
      }
      if (this.lose-- > 0) throw new Error("the answer was lost");
      return { status: 200, body: { ...known.get(id), state: known.get(id) } };
    },
  };
}

function outbox(there, more = {}) {
  let ids = 0;
  const saved = { items: [] };
  const box = new Outbox({ send: (item) => there.send(item), answered: () => {}, reached: () => {}, wait: async () => {}, name: () => `id-${more.name ?? ""}${ids++}`,
    store: { load: () => more.items ?? [], save: (items) => (saved.items = items) } });
  box.rev = there.rev;
  return { box, saved };
}

test("commands arrive once and in order, through lost lines, lost answers and other people's edits", async () => {
  const there = server(), { box, saved } = outbox(there);
  there.cut = 2;
  there.lose = 3;
  const all = [1, 2, 3].map((n) => box.add({ n }));
  assert.equal(saved.items.length, 3); // a page that is closed now has them still
  await Promise.all(all);
  there.rev = 20; // somebody else was here
  assert.equal((await box.add({ n: 4 })).rev, 21);
  assert.deepEqual(there.done.map((c) => c.n), [1, 2, 3, 4]);
  assert.deepEqual(saved.items, []);
});

test("a refusal is told to who asked, and the next command goes on", async () => {
  const there = server(), { box } = outbox(there);
  const bad = box.add({ bad: true }), good = box.add({ n: 1 });
  await assert.rejects(bad, (error) => error instanceof Refused && /cannot/.test(error.message));
  await good;
  assert.equal(there.done.length, 1);
});

test("what a closed page left is sent by the next one", async () => {
  const there = server(), { box } = outbox(there, { items: [{ id: "old", gesture: "g", command: { n: 9 } }] });
  box.resume();
  await box.add({ n: 10 });
  assert.deepEqual(there.done.map((c) => c.n), [9, 10]);
});

const bitmap = () => ({ closed: 0, close() { this.closed++; } });

test("an edit outdates the tiles it touches; they stay on the screen until others come", async () => {
  const asked = [];
  const tiles = new Tiles(async (url) => (asked.push(url), bitmap()), () => {});
  const layer = { id: 0, raster: 1, size: [1024, 512], matrix: [1, 0, 0, 0, 1, 0] };
  const frame = (rev, now = layer) => {
    tiles.begin();
    const got = [0, 1, 2, 3].map((x) => tiles.get(now, 0, x, 0, `${rev}/${x}`));
    tiles.end();
    return got;
  };
  assert.deepEqual(frame(1), [null, null, null, null]);
  await settled();
  assert.ok(frame(1).every(Boolean) && asked.length === 4);
  const changed = { ...layer, raster: 2 };
  tiles.outdate([changed], [300, 10, 400, 60]);
  assert.ok(frame(2, changed).every(Boolean));
  await settled();
  assert.deepEqual(asked.slice(4), ["2/1"]);
  tiles.outdate([{ ...changed, matrix: [1, 0, 99, 0, 1, 0] }], [0, 0, 1024, 512]); // moved: its pixels are the same
  frame(3, changed);
  await settled();
  assert.equal(asked.length, 5);
});

test("tiles are kept within bounds, and those that go give their memory back", async () => {
  const all = [];
  const tiles = new Tiles(async () => (all.push(bitmap()), all.at(-1)), () => {});
  for (let row = 0; row < 40; row++) {
    tiles.begin();
    for (let x = 0; x < 20; x++) tiles.get({ id: 0, raster: 1, size: [9000, 9000] }, 0, x, row, `${x},${row}`);
    tiles.end();
    await settled();
  }
  assert.ok(tiles.kept.size <= 340);
  assert.equal(all.filter((each) => each.closed === 1).length, all.length - [...tiles.kept.values()].filter((t) => t.bitmap).length);
  assert.ok(all.every((each) => each.closed <= 1));
});

test("a tile that cannot be had is not asked for without end", async () => {
  let asked = 0;
  const tiles = new Tiles(async () => { asked++; throw new Error("gone"); }, () => {});
  for (let i = 0; i < 50; i++) {
    tiles.begin();
    tiles.get({ id: 0, raster: 1, size: [256, 256] }, 0, 0, 0, "x");
    tiles.end();
    await settled();
  }
  assert.equal(asked, 5);
});

const settled = () => new Promise((done) => setTimeout(done, 2));

test("keys mean what the list says", () => {
  const key = (name, more = {}) => meaning({ key: name, altKey: false, shiftKey: false, ctrlKey: false, metaKey: false, ...more });
  assert.equal(key("g"), "grow");
  assert.equal(key("G", { shiftKey: true }), "shrink");
  assert.equal(key("z", { ctrlKey: true }), "undo");
  assert.equal(key("Z", { metaKey: true, shiftKey: true }), "redo");
  assert.equal(key("?", { shiftKey: true }), "help");
  assert.equal(key("["), "thinner");
  assert.equal(key("Backspace"), "remove");
  assert.equal(key("Delete", { shiftKey: true }), "remove-shadow");
  assert.equal(key("ArrowLeft", { shiftKey: true }), "left");
  assert.equal(key("d", { ctrlKey: true }), "duplicate");
  assert.equal(key("d"), undefined);
  assert.equal(key("b", { ctrlKey: true }), undefined); // the browser's own
});

test("the engine that is asked is the person's, the server's, or one that understands words", () => {
  const engine = (name, takes, more = {}) => ({ name, role: "segment", takes, lacks: null, chosen: false, quality: "learned", ...more });
  const engines = [engine("classical", ["marks", "words"], { quality: "classical" }), engine("sam2", ["marks"], { chosen: true }), engine("clipseg", ["words"]),
    engine("seem", ["marks", "words"], { lacks: "name its weights" }), { name: "lama", role: "inpaint", takes: [], lacks: null, chosen: true }];
  assert.equal(preferred(engines, {}, "segment"), "sam2");
  assert.equal(preferred(engines, {}, "words"), "clipseg");
  assert.equal(preferred(engines.slice(0, 2), {}, "words"), "classical");
  assert.equal(preferred(engines, { segment: "classical", words: "seem" }, "segment"), "classical");
  assert.equal(preferred(engines, { words: "seem" }, "words"), "clipseg"); // what was chosen once is not here any more
  assert.equal(preferred(engines, {}, "inpaint"), "lama");
  assert.equal(preferred(engines, {}, "edit"), "");
  assert.equal(preferred(engines.map((each) => ({ ...each, chosen: false })), {}, "words"), "");
  assert.deepEqual(enginesFor(engines, "words").map((each) => each.name), ["classical", "clipseg", "seem"]);
});

test("what is found out about a picture is told step by step, until nothing is to come", () => {
  const steps = [{ title: "pieces", state: "done", trouble: "" }, { title: "embedding", state: "under way", trouble: "" }, { title: "names", state: "waiting", trouble: "" }];
  assert.equal(looking(steps), "Looking: pieces ✓ · embedding … · names");
  assert.equal(looking([{ title: "pieces", state: "done" }]), "");
  assert.deepEqual(failures([...steps, { title: "names", state: "failed", trouble: "no weights" }]), ["names: no weights"]);
});

test("what is proposed is drawn where it would happen", () => {
  const doc = { selection: { box: [1, 2, 3, 4] } };
  assert.deepEqual(pendingMarks([{ do: "select", box: [10, 10, 20, 30] }, { do: "move", dx: 5, dy: -5 }], doc).map((m) => m.box), [[10, 10, 20, 30], [15, 5, 25, 25]]);
  assert.deepEqual(pendingMarks([{ do: "remove" }], doc).map((m) => [m.box, m.dashed]), [[[1, 2, 3, 4], true]]);
  assert.deepEqual(pendingMarks([{ do: "select", text: "cat" }, { do: "remove" }], doc), []);
});
