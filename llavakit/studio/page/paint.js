// @ts-check
// What is drawn: the layers from their tiles, and over them marks (masks, boxes, strokes). `surface` is a 2D context.

import { apply, enlarges, halved, inSight, level, tileBox, tilesIn } from "./view.js";

const CHECK = 12;

/** Two squares by two, which a pattern repeats. */
function squares({ sheet, check }) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 2 * CHECK, height: 2 * CHECK });
  const surface = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  surface.fillStyle = sheet;
  surface.fillRect(0, 0, 2 * CHECK, 2 * CHECK);
  surface.fillStyle = check;
  for (const at of [0, CHECK]) surface.fillRect(CHECK - at, at, CHECK, CHECK);
  return canvas;
}

/** The squares that transparent places show. */
export function drawGround(surface, view, size, colours) {
  colours.squares ??= squares(colours);
  surface.save();
  surface.translate(view.x, view.y);
  surface.fillStyle = surface.createPattern(colours.squares, "repeat");
  surface.fillRect(0, 0, size.width * view.scale, size.height * view.scale);
  surface.restore();
}

/**
 * A layer where it lies. Tiles that are not there yet are replaced by coarser ones.
 * @param {import("./tiles.js").Tiles} tiles @param {(z: number, x: number, y: number) => string} url
 */
export function drawLayer(surface, view, screen, ratio, layer, matrix, tiles, url) {
  const size = { width: layer.size[0], height: layer.size[1] };
  const shown = view.scale * enlarges(matrix);
  if (!(shown > 0)) return;
  const z = level(shown * ratio, size);
  const straight = matrix[1] === 0 && matrix[3] === 0 && matrix[0] > 0 && matrix[4] > 0;
  const place = straight ? snapped(view, matrix, ratio) : null;
  surface.save();
  surface.globalAlpha = layer.opacity;
  surface.imageSmoothingEnabled = shown < 4;
  if (!place) {
    const s = view.scale;
    surface.transform(s * matrix[0], s * matrix[3], s * matrix[1], s * matrix[4], s * matrix[2] + view.x, s * matrix[5] + view.y);
  }
  const draw = (bitmap, part, of, whole) => {
    // `part` of the layer's pixels, out of a bitmap that shows `whole` of them halved `of` times
    const k = 2 ** of;
    const [sx, sy] = [(part[0] - whole[0]) / k, (part[1] - whole[1]) / k];
    const sw = Math.min((part[2] - part[0]) / k, bitmap.width - sx), sh = Math.min((part[3] - part[1]) / k, bitmap.height - sy);
    if (sw <= 0 || sh <= 0) return;
    const [x0, y0, x1, y1] = place ? place(part) : part;
    surface.drawImage(bitmap, sx, sy, sw, sh, x0, y0, x1 - x0, y1 - y0);
  };
  const most = level(0, size);
  for (const at of tilesIn(inSight(view, matrix, screen), z, size)) {
    const box = tileBox(z, at.x, at.y, size);
    const bitmap = tiles.get(layer, z, at.x, at.y, url(z, at.x, at.y));
    if (bitmap) {
      draw(bitmap, box, z, box);
      continue;
    }
    for (let up = z + 1; up <= most; up++) {
      const [x, y] = [at.x >> (up - z), at.y >> (up - z)];
      const coarse = tiles.kept.get(`${layer.id}/${up}/${x}/${y}`)?.bitmap;
      if (coarse) {
        draw(coarse, box, up, tileBox(up, x, y, size));
        break;
      }
    }
  }
  if (z < most) tiles.get(layer, most, 0, 0, url(most, 0, 0)); // always there to fall back on
  surface.restore();
}

/** Boxes of a layer to whole pixels of the screen, so that neighbours leave no seam. */
function snapped(view, matrix, ratio) {
  const round = (v) => Math.round(v * ratio) / ratio;
  return ([x0, y0, x1, y1]) => {
    const [ax, ay] = apply(matrix, x0, y0), [bx, by] = apply(matrix, x1, y1);
    return [round(ax * view.scale + view.x), round(ay * view.scale + view.y), round(bx * view.scale + view.x), round(by * view.scale + view.y)];
  };
}

/** Loops [x, y, ...] as one path, each number times `k` and moved. @returns {Path2D} */
export function pathOf(loops, k, dx, dy) {
  const path = new Path2D();
  for (const loop of loops) {
    for (let i = 0; i < loop.length; i += 2) {
      const x = loop[i] * k + dx, y = loop[i + 1] * k + dy;
      if (i) path.lineTo(x, y);
      else path.moveTo(x, y);
    }
    path.closePath();
  }
  return path;
}

/** A line that is seen on any picture: light under dark, or dashed. */
export function strokeTwice(surface, path, colours, { width = 1.6, dashed = false, scale = 1 } = {}) {
  surface.lineJoin = "round";
  surface.strokeStyle = colours.halo;
  surface.lineWidth = (width + 1.6) / scale;
  surface.setLineDash([]);
  surface.stroke(path);
  surface.strokeStyle = colours.accent;
  surface.lineWidth = width / scale;
  surface.setLineDash(dashed ? [6 / scale, 5 / scale] : []);
  surface.stroke(path);
  surface.setLineDash([]);
}

/** A box with words at its corner, in pixels of the screen. */
export function drawBox(surface, view, box, words, colours, dashed) {
  const [x, y] = [box[0] * view.scale + view.x, box[1] * view.scale + view.y];
  const [w, h] = [(box[2] - box[0]) * view.scale, (box[3] - box[1]) * view.scale];
  const path = new Path2D();
  path.rect(x, y, w, h);
  strokeTwice(surface, path, colours, { dashed });
  if (!words) return;
  surface.font = "600 12px system-ui, sans-serif";
  const wide = surface.measureText(words).width + 12, top = y >= 20 ? y - 20 : y;
  surface.fillStyle = colours.accent;
  surface.fillRect(x - 1, top, wide, 19);
  surface.fillStyle = colours.onAccent;
  surface.fillText(words, x + 5, top + 14);
}

/** A stroke of a brush, in pixels of the canvas. */
export function drawStroke(surface, view, points, width, colour) {
  surface.save();
  surface.translate(view.x, view.y);
  surface.scale(view.scale, view.scale);
  surface.globalAlpha = 0.55;
  surface.strokeStyle = surface.fillStyle = colour;
  surface.lineWidth = width;
  surface.lineCap = surface.lineJoin = "round";
  surface.beginPath();
  points.forEach(([x, y], i) => (i ? surface.lineTo(x, y) : surface.moveTo(x, y)));
  if (points.length === 1) surface.lineTo(points[0][0] + 0.01, points[0][1]);
  surface.stroke();
  surface.restore();
}

/** How large a picture is that was halved z times. */
export const sizeAt = (size, z) => ({ width: halved(size.width, z), height: halved(size.height, z) });
