// @ts-check
// The border of a mask as closed lines between its pixels. Pure.

/**
 * Loops [x, y, x, y, ...] around what is at least `threshold`, with that to the right of the way; corners only.
 * @param {Uint8Array | Uint8ClampedArray} values  one a pixel, row by row; with `stride` 4 the last of four
 */
export function trace(values, width, height, threshold = 128, stride = 1) {
  const row = width + 1;
  const next = new Map(); // corner -> the corners that edges lead to from there, one or two
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[(y * width + x) * stride + stride - 1] >= threshold;
  const edge = (from, to) => {
    const there = next.get(from);
    if (there) there.push(to);
    else next.set(from, [to]);
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const here = inside(x, y), at = y * row + x;
      if (x < width && here !== inside(x, y - 1)) here ? edge(at, at + 1) : edge(at + 1, at);
      if (y < height && here !== inside(x - 1, y)) here ? edge(at + row, at) : edge(at, at + row);
    }
  }
  const loops = [];
  for (const [start, ways] of next) {
    while (ways.length) loops.push(follow(next, start, row));
  }
  return loops;
}

/** Takes the edges of one loop out of `next`. */
function follow(next, start, row) {
  const loop = [];
  let at = start, came = 0;
  do {
    const ways = next.get(at);
    // Where two loops touch at a corner, each keeps to its own side: the sharpest turn to the right.
    const way = ways.length === 1 ? 0 : ways.findIndex((to) => to - at === turnRight(came, row));
    const to = ways.splice(Math.max(way, 0), 1)[0];
    if (to - at !== came) loop.push(at % row, Math.floor(at / row));
    came = to - at;
    at = to;
  } while (at !== start);
  return loop;
}

const turnRight = (way, row) => ({ 1: row, [row]: -1, [-1]: -row, [-row]: 1 })[way];
