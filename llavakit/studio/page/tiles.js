// @ts-check
// Tiles of the layers and the mask: fetched as they come into sight, kept within bounds, replaced where the picture
// changed. What is outdated stays on the screen until what replaces it is there.

import { carry, inverse, meet, tileBox } from "./view.js";

const MOST = 320; // tiles of 256 KB: 80 MB
const AT_ONCE = 6;

/** @typedef {{key: string, layer: number, raster: number, z: number, x: number, y: number, url: string, size: any, bitmap: ImageBitmap | null, stale: boolean, loading: AbortController | null, failed: number, used: number}} Tile */

export class Tiles {
  /** @param {(url: string, signal: AbortSignal) => Promise<ImageBitmap>} load @param {() => void} changed */
  constructor(load, changed) {
    this.load = load;
    this.changed = changed;
    /** @type {Map<string, Tile>} */
    this.kept = new Map();
    this.wanted = [];
    this.loading = 0;
    this.clock = 0;
    this.version = 0; // of what is there to draw
  }

  /** A frame begins: what is asked for from now on is wanted. */
  begin() {
    this.clock++;
    this.wanted.length = 0;
  }

  /** A tile to draw now, perhaps outdated, or null; it is fetched if need be. */
  get(layer, z, x, y, url) {
    const key = `${layer.id}/${z}/${x}/${y}`;
    let tile = this.kept.get(key);
    if (!tile) {
      tile = { key, layer: layer.id, raster: layer.raster, z, x, y, url, size: layer.size, bitmap: null, stale: true, loading: null, failed: 0, used: 0 };
      this.kept.set(key, tile);
    }
    tile.used = this.clock;
    if (tile.stale && !tile.loading && tile.failed < 5) {
      tile.url = url;
      this.wanted.push(tile);
    }
    return tile.bitmap;
  }

  /** The frame is drawn: fetch what it lacked, let go of what it did not need. */
  end() {
    this._fetch();
    if (this.kept.size <= MOST) return;
    const old = [...this.kept.values()].filter((tile) => tile.used < this.clock).sort((a, b) => a.used - b.used);
    for (const tile of old.slice(0, this.kept.size - MOST)) this._drop(tile);
  }

  /** Nothing is missing or outdated of what was asked for in the last frame. */
  get whole() {
    return !this.loading && !this.wanted.length;
  }

  /**
   * The picture changed inside a box of the canvas (null: it is not known where). Layers say by `raster`
   * whether theirs did.
   * @param {any[]} layers @param {[number, number, number, number] | null} damage
   */
  outdate(layers, damage) {
    const now = new Map(layers.map((layer) => [layer.id, layer]));
    for (const tile of this.kept.values()) {
      const layer = now.get(tile.layer);
      if (!layer) this._drop(tile);
      else if (layer.raster !== tile.raster) {
        tile.raster = layer.raster;
        const where = damage && carry(inverse(layer.matrix), damage);
        const same = layer.size[0] === tile.size[0] && layer.size[1] === tile.size[1];
        tile.size = layer.size;
        if (!same || !where || meet(where, tileBox(tile.z, tile.x, tile.y, { width: layer.size[0], height: layer.size[1] }))) {
          tile.loading?.abort();
          Object.assign(tile, { loading: null, stale: true, failed: 0 });
        }
      }
    }
  }

  _drop(tile) {
    tile.loading?.abort();
    tile.bitmap?.close();
    tile.bitmap = null;
    this.kept.delete(tile.key);
  }

  _fetch() {
    while (this.loading < AT_ONCE && this.wanted.length) {
      const tile = this.wanted.shift();
      if (tile.stale && !tile.loading && this.kept.get(tile.key) === tile) this._one(tile);
    }
  }

  async _one(tile) {
    const asked = (tile.loading = new AbortController());
    this.loading++;
    try {
      const bitmap = await this.load(tile.url, asked.signal);
      if (asked.signal.aborted) bitmap.close();
      else {
        tile.bitmap?.close();
        Object.assign(tile, { bitmap, stale: false, failed: 0 });
        this.version++;
      }
    } catch {
      if (!asked.signal.aborted) tile.failed++; // asked for again in a later frame, some times
    }
    if (tile.loading === asked) tile.loading = null;
    this.loading--;
    this.changed();
    this._fetch();
  }
}
