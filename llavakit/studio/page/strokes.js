// @ts-check
// Strokes as they are sent: fewer points, whole tenths of pixels. Pure.

/**
 * The line with fewer points, none farther than `away` from it (Ramer, Douglas and Peucker).
 * @param {number[][]} points @returns {number[][]}
 */
export function simplify(points, away) {
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const parts = [[0, points.length - 1]];
  while (parts.length) {
    const [from, to] = /** @type {number[]} */ (parts.pop());
    let worst = away, at = -1;
    for (let i = from + 1; i < to; i++) {
      const d = distance(points[i], points[from], points[to]);
      if (d > worst) [worst, at] = [d, i];
    }
    if (at < 0) continue;
    keep[at] = 1;
    parts.push([from, at], [at, to]);
  }
  return points.filter((_, i) => keep[i]);
}

/** How far a point is from a line between two. @param {number[]} p @param {number[]} a @param {number[]} b */
function distance([x, y], [ax, ay], [bx, by]) {
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  const t = length ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / length, 0), 1) : 0;
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/** At most `most` points inside the picture, in tenths of a pixel. */
export function pack(points, { width, height }, most = 400) {
  let away = 0.3, line = simplify(points, away);
  while (line.length > most) line = simplify(line, (away *= 1.6));
  const inside = (v, end) => Math.round(Math.min(Math.max(v, 0), end) * 10) / 10;
  return line.map(([x, y]) => [inside(x, width), inside(y, height)]);
}

/** The box between two corners, whole pixels, inside the picture; null where it is thinner than `least`. */
export function boxOf([ax, ay], [bx, by], { width, height }, least = 3) {
  const clamp = (v, end) => Math.round(Math.min(Math.max(v, 0), end));
  const box = [clamp(Math.min(ax, bx), width), clamp(Math.min(ay, by), height), clamp(Math.max(ax, bx), width), clamp(Math.max(ay, by), height)];
  return box[2] - box[0] < least || box[3] - box[1] < least ? null : box;
}

/** How long a line is. @param {number[][]} points */
export const lengthOf = (points) => points.slice(1).reduce((sum, p, i) => sum + Math.hypot(p[0] - points[i][0], p[1] - points[i][1]), 0);
