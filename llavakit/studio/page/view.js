// @ts-check
// Where the picture lies on the screen, and which tiles that needs. Pure: nothing here knows the page.
//
// A view {scale, x, y}: screen pixels a pixel of the canvas, and where its corner is. A matrix is the server's:
// [a, b, c, d, e, f], x' = a x + b y + c, y' = d x + e y + f.

/** @typedef {{scale: number, x: number, y: number}} View */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {[number, number, number, number, number, number]} Matrix */
/** @typedef {[number, number, number, number]} Box  left, top, right, bottom */

export const SIDE = 256;
const MOST = 32; // screen pixels a pixel of the picture at most
const LEAST = 0.25; // of the scale at which everything fits
const STEP = 60; // pixels of the picture that stay in sight, however far it is pushed

/** The view in which all of the picture is seen, with a border, and room for a bar below. @param {Size} picture @param {Size} screen @returns {View} */
export function fit(picture, screen, border = 16, below = 48) {
  const across = Math.max(screen.width - 2 * border, 1) / picture.width;
  const down = Math.max(screen.height - 2 * border - below, 1) / picture.height;
  const scale = Math.min(across, down, 4);
  return { scale, x: (screen.width - picture.width * scale) / 2, y: (screen.height - below - picture.height * scale) / 2 };
}

/** The view with another scale, the point under (x, y) of the screen kept. @param {View} view */
export function zoom(view, factor, x, y, /** @type {Size} */ picture, /** @type {Size} */ screen) {
  const least = LEAST * fit(picture, screen).scale;
  const scale = Math.min(Math.max(view.scale * factor, least), MOST);
  const by = scale / view.scale;
  return keep({ scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by }, picture, screen);
}

/** The view pushed by (dx, dy) of the screen. @param {View} view */
export function pan(view, dx, dy, /** @type {Size} */ picture, /** @type {Size} */ screen) {
  return keep({ scale: view.scale, x: view.x + dx, y: view.y + dy }, picture, screen);
}

/** What two fingers do: their middle and distance before and after. */
export function pinch(view, before, after, picture, screen) {
  const middle = ([a, b]) => [(a.x + b.x) / 2, (a.y + b.y) / 2];
  const apart = ([a, b]) => Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1);
  const [x, y] = middle(before), [nx, ny] = middle(after);
  return pan(zoom(view, apart(after) / apart(before), x, y, picture, screen), nx - x, ny - y, picture, screen);
}

/** @returns {View} */
function keep(view, picture, screen) {
  const most = (/** @type {number} */ at, length, space) => Math.min(Math.max(at, STEP - length), space - STEP);
  return {
    scale: view.scale,
    x: most(view.x, picture.width * view.scale, screen.width),
    y: most(view.y, picture.height * view.scale, screen.height),
  };
}

/** Screen to canvas. @param {View} view */
export const toCanvas = (view, x, y) => [(x - view.x) / view.scale, (y - view.y) / view.scale];

/** @param {Matrix} m */
export const apply = (m, x, y) => [m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]];

/** @param {Matrix} m @param {Matrix} n @returns {Matrix} first n, then m */
export function after(m, n) {
  const [c, f] = apply(m, n[2], n[5]);
  return [m[0] * n[0] + m[1] * n[3], m[0] * n[1] + m[1] * n[4], c, m[3] * n[0] + m[4] * n[3], m[3] * n[1] + m[4] * n[4], f];
}

/** @param {Matrix} m @returns {Matrix} */
export function inverse([a, b, c, d, e, f]) {
  const det = a * e - b * d;
  return [e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det];
}

/** The box around a box that a matrix carries off. @param {Matrix} m @param {Box} box @returns {Box} */
export function carry(m, [x0, y0, x1, y1]) {
  const at = [[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map(([x, y]) => apply(m, x, y));
  const xs = at.map((p) => p[0]), ys = at.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** @param {Box} a @param {Box} b */
export const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** How often a picture is halved for a screen that shows it `scale` times as large. @param {Size} size */
export function level(scale, size) {
  const most = Math.max(0, Math.ceil(Math.log2(Math.max(size.width, size.height) / SIDE)));
  return Math.min(Math.max(Math.floor(Math.log2(1 / scale) + 0.2), 0), most);
}

/** The side of a picture that was halved z times. */
export const halved = (length, z) => Math.max(Math.ceil(length / 2 ** z), 1);

/** What a tile covers, in pixels of its picture. @param {Size} size @returns {Box} */
export function tileBox(z, x, y, size) {
  const side = SIDE * 2 ** z;
  return [x * side, y * side, Math.min((x + 1) * side, size.width), Math.min((y + 1) * side, size.height)];
}

/** The tiles of a level that a box of the picture touches, those in its middle first. @param {Box} box @param {Size} size */
export function tilesIn(box, z, size) {
  const side = SIDE * 2 ** z, found = [];
  const [x0, y0] = [Math.max(Math.floor(box[0] / side), 0), Math.max(Math.floor(box[1] / side), 0)];
  const x1 = Math.min(Math.ceil(box[2] / side), Math.ceil(size.width / side));
  const y1 = Math.min(Math.ceil(box[3] / side), Math.ceil(size.height / side));
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) found.push({ z, x, y });
  const away = (t) => Math.abs(t.x + 0.5 - (x0 + x1) / 2) + Math.abs(t.y + 0.5 - (y0 + y1) / 2);
  return found.sort((a, b) => away(a) - away(b));
}

/** What of a layer is on the screen, in its own pixels. @param {View} view @param {Matrix} matrix @param {Size} screen @returns {Box} */
export function inSight(view, matrix, screen) {
  const [x0, y0] = toCanvas(view, 0, 0), [x1, y1] = toCanvas(view, screen.width, screen.height);
  return carry(inverse(matrix), [x0, y0, x1, y1]);
}

/** How many times a matrix enlarges. @param {Matrix} m */
export const enlarges = (m) => Math.sqrt(Math.abs(m[0] * m[4] - m[1] * m[3]));
