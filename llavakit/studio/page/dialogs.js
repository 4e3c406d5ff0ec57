// @ts-check
// The dialogs: export, versions, keys, and words for what is to be made.

import { at, button, make } from "./dom.js";
import { PURPOSES, enginesFor } from "./engines.js";
import { KEYS } from "./keys.js";

/** Show something in the dialog; */
function open(title, ...children) {
  at("dialog-title").textContent = title;
  at("dialog-body").replaceChildren(...children);
  at("dialog").showModal();
}

export const close = () => at("dialog").close();

/** @param {import("./editor.js").Editor} editor */
export function exportDialog(editor) {
  const row = ({ kind, title, words }) => make("li", {}, make("a", { class: "file", href: editor.picture.exportUrl(kind), download: true, "data-kind": kind, onclick: close },
    make("strong", {}, title), make("small", {}, words)));
  open("Export", make("ul", { class: "choices" }, ...editor.about.exports.map(row)));
}

/** @param {import("./editor.js").Editor} editor @param {(rev: number) => void} compare */
export function versionsDialog(editor, compare) {
  const { doc } = editor.model;
  const field = make("input", { "aria-label": "name of the version", maxlength: 80, value: `Version ${doc.versions.length}` });
  const form = make("div", { class: "fields" }, make("label", {}, "Keep what is there now as", make("span", { class: "inline" }, field,
    button("Keep", async () => { if (field.value.trim()) { await editor.do({ do: "save_version", name: field.value.trim() }); versionsDialog(editor, compare); } }, { class: "primary" }))));
  const row = ({ name, rev }) => make("li", {}, make("span", { class: "row" },
    make("img", { src: editor.picture.thumbnailUrl(rev), alt: "", width: 56, height: 44 }),
    button(name, async () => { close(); await editor.do({ do: "restore", name }); }, { title: `Go back to ${name}` }),
    button("Compare", () => { close(); compare(rev); }, { title: `See ${name} beside the picture` })));
  if (at("dialog").open) close();
  open("Versions", form, make("ul", { class: "choices versions" }, ...[...doc.versions].reverse().map(row)));
}

export function keysDialog() {
  const name = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
  const row = ([key, , words]) => make("li", {}, make("span", {}, words), make("span", {}, ...key.split(/(?<=.)\+/).flatMap((part, i) => [i ? " " : "", make("kbd", {}, part === "Mod" ? name : part)])));
  open("Keys", make("p", {}, "These keys work while the picture has the focus, which a click on it gives. Escape clears, and then Tab goes on through the page."), make("ul", { class: "keys" }, ...KEYS.map(row)));
}

/** Ask for a name. @returns {Promise<string | null>} */
export function nameDialog(title, value) {
  return new Promise((done) => {
    const field = make("input", { "aria-label": title, maxlength: 100, value });
    const give = (what) => { close(); done(what); };
    const keep = () => field.value.trim() && give(field.value.trim());
    field.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), keep()));
    at("dialog").addEventListener("close", () => done(null), { once: true });
    open(title, make("div", { class: "fields" }, field, make("div", { class: "row" }, button("Keep", keep, { class: "primary" }))));
    field.select();
  });
}

/**
 * Engines to choose from; those that are missing cannot be chosen, and show what would install them.
 * @param {string} title @param {any[]} engines @param {any} first @param {(name: string) => void} [choose]
 */
const engineField = (title, engines, first, choose = () => {}) => make("fieldset", {}, make("legend", {}, title), ...engines.map((each) => make("label", { class: "engine" },
  make("input", { type: "radio", name: `engine ${title}`, value: each.name, checked: each === first, disabled: Boolean(each.lacks), onchange: () => choose(each.name) }),
  make("span", {}, each.title, each.lacks ? make("code", {}, each.lacks) : null))));

/** All engines for a purpose, and the one that is asked. @param {any} editor @param {string} purpose */
function offered(editor, purpose) {
  const engines = enginesFor(editor.about.engines, purpose), name = editor.engineFor(purpose);
  return { engines, first: engines.find((each) => each.name === name) };
}

/** Which engine does what. @param {any} editor @param {(purpose: string, engine: string) => void} prefer */
export function settingsDialog(editor, prefer) {
  const rows = PURPOSES.map(({ name, words }) => {
    const { engines, first } = offered(editor, name);
    return engineField(words, engines, first, (engine) => prefer(name, engine));
  });
  open("Settings", make("p", {}, "Which engine does what, for all pictures in this browser."), make("div", { class: "fields settings" }, ...rows));
}

const ROLES = { replace: "invent", add: "invent", edit: "edit", generate: "generate" };
const TITLES = { replace: "Replace what is selected", add: "Add in the box", edit: "Change the picture by words", generate: "A new picture from boxes" };

const NEEDS = { replace: "what is selected", add: "a box, or what is selected", edit: "all of it, or what is selected", generate: "kept objects say what is where" };

/** What engines can make. @param {any} editor */
export function makingsDialog(editor) {
  const row = (what) => make("li", {}, make("button", { type: "button", onclick: () => (close(), makeDialog(what, editor)), "data-make": what }, make("strong", {}, TITLES[what]), make("small", {}, NEEDS[what])));
  open("Make something", make("ul", { class: "choices" }, ...Object.keys(TITLES).map(row)));
}

/**
 * Words for an engine that makes something; engines that are missing are shown with what would install them.
 * @param {"replace" | "add" | "edit" | "generate"} what @param {any} editor
 */
export function makeDialog(what, editor) {
  const { engines, first = engines.find((each) => !each.lacks) } = offered(editor, ROLES[what]);
  const words = make("textarea", { rows: 2, maxlength: 1000, placeholder: what === "edit" ? "make it winter" : "a green bicycle" });
  const count = make("input", { type: "number", min: 1, max: 8, value: what === "add" ? 1 : 2 });
  const seed = make("input", { type: "number", min: 0, max: 4294967295, value: 0 });
  let engine = first?.name ?? "";
  const trouble = make("p", { role: "alert", hidden: true });
  const go = button("Make", async () => {
    const { box } = editor;
    const shared = { seed: Number(seed.value) || 0, count: Math.min(Math.max(Number(count.value) || 1, 1), 8), engine };
    const boxes = editor.model.doc.objects.filter((each) => each.box);
    const command = what === "generate" ? { do: what, caption: words.value, boxes: boxes.map((each) => each.box), phrases: boxes.map((each) => each.label), ...shared }
      : { do: what, prompt: words.value, ...(what === "add" ? { box } : {}), ...shared };
    go.disabled = true;
    close();
    await editor.make(command);
  }, { class: "primary", disabled: !first || (what === "add" && !editor.box) || (what === "replace" && !editor.model.doc.selection) });
  const lacking = !first ? "No engine for this is installed here." : what === "add" && !editor.box ? "Draw a box first." : what === "replace" && !editor.model.doc.selection ? "Select something first." : "";
  trouble.textContent = lacking;
  trouble.hidden = !lacking;
  open(TITLES[what], make("div", { class: "fields" }, make("label", {}, "In words", words), engineField("Engine", engines, first, (name) => (engine = name)),
    make("div", { class: "pair" }, make("label", {}, "Variants", count), make("label", {}, "Seed", seed)), trouble, make("div", { class: "row" }, go)));
  words.focus();
}
