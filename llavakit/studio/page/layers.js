// @ts-check
// The list of objects: what was cut out or made, the front one first, and what was kept under a name.

import { at, button, make } from "./dom.js";

/**
 * @param {any} doc @param {any} current  the layer that is worked on
 * @param {any} on  {pick(layer), toggle(layer), dropLayer(layer), pickObject(object), dropObject(object)}
 */
export function drawLayers(doc, current, picture, on) {
  const list = at("layers");
  const focused = /** @type {any} */ (document.activeElement?.closest("#layers li"))?.dataset.key;
  const cuts = doc.layers.filter((layer) => layer.kind !== "photo").reverse();
  at("count").textContent = cuts.length + doc.objects.length ? `(${cuts.length + doc.objects.length})` : "";
  list.replaceChildren(
    ...cuts.map((layer) => row(`layer-${layer.id}`, layer === current, layer.name, `${layer.size[0]} × ${layer.size[1]}`,
      picture.tileUrl(doc.rev, coarsest(layer), 0, 0, layer.id), () => on.pick(layer),
      button(layer.visible ? "Hide" : "Show", () => on.toggle(layer), { glyph: layer.visible ? "eye" : "eye-off", title: `${layer.visible ? "Hide" : "Show"} ${layer.name}` }),
      button(`Remove ${layer.name}`, () => on.dropLayer(layer), { glyph: "trash" }))),
    ...doc.objects.map((object) => row(`object-${object.id}`, false, object.label, "kept mask", "", () => on.pickObject(object),
      button(`Forget ${object.label}`, () => on.dropObject(object), { glyph: "trash" }))),
  );
  if (focused) list.querySelector(`[data-key="${focused}"] button`)?.focus();
}

function row(key, current, name, small, picture, pick, ...buttons) {
  const image = picture ? make("img", { src: picture, alt: "", loading: "lazy" }) : null;
  return make("li", { "data-key": key, class: current ? "current" : null },
    make("button", { type: "button", class: "pick", "aria-pressed": String(current), onclick: pick }, image, make("span", {}, name, " ", make("small", {}, small))),
    ...buttons);
}

const coarsest = (layer) => Math.max(0, Math.ceil(Math.log2(Math.max(...layer.size) / 256)));
