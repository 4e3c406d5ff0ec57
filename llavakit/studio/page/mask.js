// @ts-check
// A mask on the screen: its tiles put together where it is not empty, a tint and outlines made of them.

import { trace } from "./outline.js";
import { pathOf } from "./paint.js";
import { SIDE, tilesIn } from "./view.js";

const FINE = 1400; // pixels of the longer side at which a mask is looked at

/** @typedef {{canvas: HTMLCanvasElement, path: Path2D, x: number, y: number, k: number, box: number[]}} Shape */

/**
 * @param {[number, number, number, number]} box  where the mask is, in pixels of the canvas
 * @param {{width: number, height: number}} size  of the canvas
 * @param {(z: number, x: number, y: number) => Promise<ImageBitmap>} load  white where it is, alpha by how much
 * @returns {Promise<Shape>} `canvas` holds it from (x, y) of the canvas on, one pixel every k
 */
export async function loadShape(box, size, load) {
  const longest = Math.max(box[2] - box[0], box[3] - box[1]);
  const z = Math.max(0, Math.ceil(Math.log2(longest / FINE)));
  const k = 2 ** z, at = tilesIn(box, z, size);
  const x0 = Math.min(...at.map((t) => t.x)), y0 = Math.min(...at.map((t) => t.y));
  const canvas = document.createElement("canvas");
  canvas.width = (Math.max(...at.map((t) => t.x)) - x0 + 1) * SIDE;
  canvas.height = (Math.max(...at.map((t) => t.y)) - y0 + 1) * SIDE;
  const surface = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  await Promise.all(at.map(async (t) => {
    const bitmap = await load(t.z, t.x, t.y);
    surface.drawImage(bitmap, (t.x - x0) * SIDE, (t.y - y0) * SIDE);
    bitmap.close();
  }));
  const { data } = surface.getImageData(0, 0, canvas.width, canvas.height);
  const loops = trace(data, canvas.width, canvas.height, 128, 4);
  const [x, y] = [x0 * SIDE * k, y0 * SIDE * k];
  return { canvas, path: pathOf(loops, k, x, y), x, y, k, box };
}

/** Whether a point of the canvas is on it. @param {Shape} shape */
export function covers(shape, x, y) {
  if (x < shape.box[0] || y < shape.box[1] || x >= shape.box[2] || y >= shape.box[3]) return false;
  const surface = /** @type {CanvasRenderingContext2D} */ (shape.canvas.getContext("2d"));
  return surface.getImageData(Math.floor((x - shape.x) / shape.k), Math.floor((y - shape.y) / shape.k), 1, 1).data[3] >= 128;
}

/** The mask in one colour, to be laid over the picture. @param {Shape} shape */
export function tint(shape, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = shape.canvas.width;
  canvas.height = shape.canvas.height;
  const surface = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  surface.drawImage(shape.canvas, 0, 0);
  surface.globalCompositeOperation = "source-in";
  surface.fillStyle = colour;
  surface.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}
