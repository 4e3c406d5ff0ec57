// @ts-check
// The bar under the picture: what can be done with the selection or the object.

import { at, button, make } from "./dom.js";
import { failures, looking } from "./preparing.js";

/** @param {import("./editor.js").Editor} editor @param {(what: string) => void} act */
export function drawBar(editor, act) {
  const { doc, current, tool, before } = editor.model;
  const bar = at("bar"), active = /** @type {any} */ (document.activeElement), focused = bar.contains(active) ? active.dataset.act : null;
  const split = () => make("span", { class: "split" });
  const does = (words, what, key, more = {}) => button(words, () => act(what), { title: `${words} (${key})`, "data-act": what, ...more });
  let inside = [];
  if (before) inside = [];
  else if (doc.variants.length > 1) {
    inside = [make("span", { class: "note" }, "Variants"), ...doc.variants.map(({ seed }, i) => make("button", { type: "button", class: "variant", title: `Variant ${i + 1}, seed ${seed}`, "data-act": `vary-${i}`, onclick: () => editor.do({ do: "vary", variant: i }) },
      make("img", { src: editor.picture.variantUrl(doc.rev, i), alt: `Variant ${i + 1}` })))];
  } else if (tool === "move" && current) {
    inside = [make("span", { class: "note" }, current.name), does("Smaller", "smaller", "<"), does("Larger", "larger", ">"), does("↺", "turn-left", ",", { "aria-label": "Rotate left" }),
      does("↻", "turn-right", ".", { "aria-label": "Rotate right" }), split(), does("Raise", "raise", "PageUp"), does("Lower", "lower", "PageDown"), split(), does("Duplicate", "duplicate", "Ctrl+D"), does("Remove", "remove", "Delete", { class: "danger" })];
  } else if (doc.selection) {
    const { candidates, chosen } = doc.selection;
    const which = candidates.length > 1 ? [...candidates.map((each, i) => button(each.name || `${i + 1}`, () => editor.do({ do: "choose", candidate: i }), { "aria-pressed": String(i === chosen), title: "Another of what may be meant (Tab)", "data-act": `choose-${i}` })), split()] : [];
    inside = [...which, does("Remove", "remove", "Delete", { class: "primary" }), does("Move", "tool:move", "V"), does("Duplicate", "duplicate", "Ctrl+D"), does("Replace", "replace", "M"), split(),
      does("Grow", "grow", "G"), does("Shrink", "shrink", "Shift+G"), does("Feather", "feather", "F"), does("Invert", "invert", "I"), does("Keep", "keep", "K"), split(), does("Clear", "clear", "Esc", { glyph: "close" })];
  }
  bar.hidden = !inside.length;
  bar.replaceChildren(...inside);
  if (focused) (bar.querySelector(`[data-act="${focused}"]`) ?? bar.querySelector("button") ?? at("stage")).focus();
}

const NARROW = matchMedia("(max-width: 1000px)");
const HINTS = {
  stroke: "Stroke over a thing to select it. Shift adds, Alt takes away.", click: "Click a thing to select it. Shift adds, Alt takes away.",
  box: "Draw a box around a thing.", brush: "Paint the selection. Alt takes away.", move: "Drag a thing to move it.", hand: "Drag to push the picture.",
};

/** The line at the lower left. */
export function drawHint(editor) {
  const { doc, tool, before } = editor.model;
  at("status").classList.toggle("bad", Boolean(editor.failed));
  const idle = (NARROW.matches && looking(doc.preparing)) || HINTS[tool]; // where there is no room for chips
  at("status").textContent = before ? "" : editor.note || (doc.selection ? "" : idle);
}

/** Buttons for what was seen in the picture. @param {any} doc @param {(box: number[], event: any) => void} select */
export function drawNoticed({ noticed }, select) {
  const list = at("noticed"), now = JSON.stringify(noticed);
  if (list.dataset.shown === now) return;
  list.dataset.shown = now;
  const count = new Map();
  list.replaceChildren(...noticed.map(({ label, box }) => {
    const number = (count.get(label) ?? 0) + 1;
    count.set(label, number);
    return button(number > 1 ? `${label} ${number}` : label, (event) => select(box, event), { title: `Select the ${label}` });
  }));
}

/** The chips at the top. */
export function drawChips(doc, doing) {
  const chips = [];
  const words = looking(doc.preparing);
  if (words) chips.push([words, ""]);
  for (const trouble of failures(doc.preparing)) chips.push([trouble, "failed"]);
  if (doc.holes) chips.push(["Filling", ""]);
  if (doing > 1) chips.push([`${doing} to do`, ""]);
  at("chips").replaceChildren(...chips.map(([words, kind]) => make("li", { class: kind || null, title: words }, words)));
}
