// @ts-check
// The page: a picture is opened, buttons and keys reach its editor, and what others do is looked for.

import { actionsOf } from "./actions.js";
import { about, openPicture } from "./api.js";
import { drawBar, drawChips, drawHint, drawNoticed } from "./bar.js";
import { at, make } from "./dom.js";
import { Editor } from "./editor.js";
import { drawJobs } from "./jobs.js";
import { meaning } from "./keys.js";
import { underWay } from "./preparing.js";
import { TalkPanel } from "./talk.js";

const RECENT = "studio-recent", ENGINES = "studio-engines";
const OFTEN = 400, SELDOM = 4000; // milliseconds between two looks for news

let editor = /** @type {Editor | null} */ (null);
let offers = /** @type {any} */ ({});
let actions = /** @type {Record<string, (event?: any) => any>} */ ({});
let held = ""; // the tool that comes back when Space is let go

// --- telling ----------------------------------------------------------------------------------------------------

function tell(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

function guard(work) {
  return work.catch((error) => tell(error.message));
}

// --- opening ----------------------------------------------------------------------------------------------------

const recent = () => JSON.parse(localStorage.getItem(RECENT) ?? "[]");

function remember(name, title, rev) {
  localStorage.setItem(RECENT, JSON.stringify([{ name, title, rev }, ...recent().filter((each) => each.name !== name)].slice(0, 12)));
}

async function open(file) {
  if (!file) return;
  tell("");
  if (editor && file.name?.endsWith(".json")) return loadMasks(await file.text());
  if (file.size > offers.max_upload_bytes) return tell(`${file.name} is larger than the ${Math.round(offers.max_upload_bytes / 2 ** 20)} MB that this server takes.`);
  document.body.setAttribute("aria-busy", "true");
  at("drop").querySelector("strong").textContent = "Opening…";
  try {
    location.hash = await openPicture(file, file.name ?? "pasted picture");
  } finally {
    at("drop").querySelector("strong").textContent = "Choose a picture";
    document.body.setAttribute("aria-busy", "false");
  }
}

/** Masks from elsewhere, as COCO writes them, become objects; the last one is selected. */
async function loadMasks(text) {
  let masks;
  try {
    const { annotations, categories = [] } = JSON.parse(text);
    const names = new Map(categories.map((each) => [each.id, each.name]));
    masks = annotations.map((each) => [each.segmentation, String(names.get(each.category_id) ?? "object")]);
  } catch {
    throw new Error("Not a file of masks: COCO's JSON with annotations is read.");
  }
  const gesture = crypto.randomUUID();
  for (const [rle, label] of masks) {
    if (!rle?.counts) throw new Error("Masks as run lengths (RLE) are read, polygons are not.");
    if (!(await editor.do({ do: "load_mask", rle: { size: rle.size, counts: rle.counts }, label }, gesture))) return;
    await editor.do({ do: "keep_object", label }, gesture);
  }
}

function welcome() {
  at("welcome").hidden = false;
  at("editor").hidden = at("actions").hidden = at("name").hidden = true;
  at("limits").textContent = `Up to ${Math.round(offers.max_upload_bytes / 2 ** 20)} MB. What nobody touches for ${Math.round(offers.keep_hours / 24)} days is deleted.`;
  const list = recent();
  at("recent").hidden = !list.length;
  at("recent").querySelector("ul").replaceChildren(...list.map(({ name, title, rev }) => make("li", {}, make("a", { href: `#${name}` },
    make("img", { src: `api/${name}/thumbnail/${rev}.webp`, alt: "", onerror: (event) => event.target.closest("li").remove() }), make("span", {}, title)))));
  document.body.dataset.view = "welcome";
}

async function begin(name) {
  at("welcome").hidden = true;
  at("editor").hidden = at("actions").hidden = at("name").hidden = false;
  document.body.dataset.view = "editor";
  editor = new Editor(name, { tell, noted, drawn, looked, choose, hurry });
  editor.about = offers;
  editor.chosen = JSON.parse(localStorage.getItem(ENGINES) ?? "{}");
  actions = actionsOf(editor, { choose, mode, brush, compare, talk, ask: () => (tab("chat"), at("question").focus()), prefer });
  await editor.start();
  choose("stroke");
  at("stage").focus({ preventScroll: true });
}

// --- what is on the screen --------------------------------------------------------------------------------------

function noted(text, failed = false) {
  if (!editor) return;
  Object.assign(editor, { note: text, failed });
  drawHint(editor);
}

function drawn(of) {
  const { doc, before } = of.model;
  at("name").textContent = `${doc.title} · ${doc.size[0]} × ${doc.size[1]}`;
  document.title = `${doc.title} – llavakit studio`;
  for (const [what, can] of [["undo", doc.can_undo], ["redo", doc.can_redo]]) /** @type {any} */ (document.querySelector(`#actions [data-act=${what}]`)).disabled = !can;
  drawChips(doc, of.doing);
  drawNoticed(doc, (box, event) => of.selectBox(box, event));
  drawJobs(doc.jobs, of.cancel);
  drawBar(of, act);
  drawHint(of);
  talk.draw(doc.talk);
  at("seek").hidden = Boolean(before);
  remember(of.picture.name, doc.title, doc.rev);
}

function looked(of) {
  at("percent").textContent = `${Math.round(of.model.view.scale * 100)} %`;
}

function choose(tool) {
  if (!editor) return;
  editor.model.tool = tool;
  for (const each of document.querySelectorAll("#tools [data-tool]")) each.setAttribute("aria-pressed", String(each.getAttribute("data-tool") === tool));
  editor.model.cursor = null;
  editor.hands.cursor();
  editor.note = "";
  drawBar(editor, act);
  drawHint(editor);
  editor.stage.draw();
}

function mode(now) {
  if (!editor) return;
  editor.model.mode = now;
  for (const [what, is] of [["add-to", "add"], ["subtract", "subtract"]]) document.querySelector(`#tools [data-act=${what}]`).setAttribute("aria-pressed", String(now === is));
}

function brush(size) {
  if (!editor) return;
  const now = Math.round(Math.min(Math.max(size, 4), 160));
  editor.model.brush = at("size").value = now;
  if (editor.model.cursor) editor.model.cursor.radius = now / 2;
  editor.stage.drawMarks();
}

/** Another engine from now on, for all pictures in this browser. */
function prefer(purpose, engine) {
  if (!editor) return;
  editor.chosen[purpose] = engine;
  localStorage.setItem(ENGINES, JSON.stringify(editor.chosen));
}

function compare(rev) {
  if (!editor) return;
  editor.compare(rev);
  at("compare").hidden = rev === null;
  at("slide").value = 500;
  document.querySelector("#actions [data-act=compare]").setAttribute("aria-pressed", String(rev !== null));
  drawn(editor);
  if (rev !== null) at("slide").focus();
}

function tab(name) {
  at("side").dataset.tab = name;
  for (const each of ["chat", "objects"]) {
    at(`tab-${each}`).setAttribute("aria-selected", String(each === name));
    at(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
}

// --- the chat ---------------------------------------------------------------------------------------------------

const talk = new TalkPanel({
  ask: (text) => guard(asked(text)),
  stop: () => guard(editor.picture.stop()),
  point: (boxes) => {
    editor.model.pointed = boxes.map((box) => ({ box, words: "", dashed: false }));
    editor.show({ ...editor.model.doc }, null);
  },
  apply: async (commands) => {
    const gesture = (editor.fillGesture = crypto.randomUUID());
    let done = true;
    for (const command of commands) done &&= Boolean(await editor.do(command, gesture));
    await editor.do({ do: "say", role: "user", text: done ? "(applied)" : "(could not be applied)" });
  },
  decline: () => editor.do({ do: "say", role: "user", text: "(declined)" }),
  change: (text) => guard(asked(text)),
});

async function asked(text) {
  const { picture } = editor;
  talk.asked(text);
  let troubles;
  try {
    troubles = (await picture.ask(text, (piece) => talk.piece(piece))).troubles;
  } catch (error) {
    troubles = [error.message];
  }
  const state = await picture.state().finally(() => talk.done());
  editor.show(state, null);
  editor.outbox.rev = Math.max(editor.outbox.rev, state.rev);
  talk.trouble(troubles);
}

// --- reaching it ------------------------------------------------------------------------------------------------

function act(what, event) {
  if (!editor?.model.doc) return;
  if (what.startsWith("tool:")) choose(what.slice(5));
  else guard(Promise.resolve(actions[what]?.(event)));
}

const typing = (target) => target instanceof HTMLInputElement && target.type !== "range" || target instanceof HTMLTextAreaElement;

document.addEventListener("keydown", (event) => {
  if (!editor || document.body.dataset.view !== "editor" || at("dialog").open) return;
  const what = meaning(event);
  if (!what) return;
  const onStage = event.target === at("stage") || event.target === document.body;
  const always = ["undo", "redo", "apply", "export"].includes(what);
  if (typing(event.target)) {
    if (what === "clear") return at("stage").focus();
    if (!["apply", "export"].includes(what)) return;
  } else if (!onStage && !always && (["enter", "candidate"].includes(what) || ["left", "right", "up", "down", "tool:hand"].includes(what))) return;
  if (what === "candidate" && (event.shiftKey || !((editor.model.doc.selection?.candidates.length ?? 0) > 1))) return;
  event.preventDefault();
  if (what === "tool:hand") {
    if (!event.repeat && editor.model.tool !== "hand") held = editor.model.tool;
    if (!event.repeat) choose("hand");
    return;
  }
  act(what, event);
});

document.addEventListener("keyup", (event) => {
  if (event.key === " " && held) {
    choose(held);
    held = "";
  }
});

document.addEventListener("click", (event) => {
  const pressed = /** @type {any} */ (event.target).closest?.("[data-tool], #tools [data-act], #actions [data-act], #zoom [data-act]");
  if (!pressed) return;
  act(pressed.dataset.tool ? `tool:${pressed.dataset.tool}` : pressed.dataset.act, event);
});

at("seek").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("words").value.trim()) editor.selectWords(at("words").value.trim());
});
at("size").addEventListener("input", () => brush(Number(at("size").value)));
at("slide").addEventListener("input", () => {
  if (!editor.model.before) return;
  editor.model.before.at = Number(at("slide").value) / 1000;
  editor.stage.picture.batchDraw();
});
for (const name of ["chat", "objects"]) at(`tab-${name}`).addEventListener("click", () => tab(name));
at("tabs").addEventListener("keydown", (event) => {
  if (!event.key.startsWith("Arrow")) return;
  tab(at("side").dataset.tab === "objects" ? "chat" : "objects");
  at(`tab-${at("side").dataset.tab}`).focus();
});
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // the same file may be chosen again
  guard(open(file));
});
document.addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("dragging")));
document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  guard(open(event.dataTransfer?.files[0]));
});
document.addEventListener("paste", (event) => {
  if (document.body.dataset.view === "welcome") guard(open(event.clipboardData?.files[0]));
});
addEventListener("hashchange", () => {
  const name = location.hash.slice(1);
  if (name && !editor) guard(begin(name));
  else if (name !== editor?.picture.name) location.reload(); // another picture: nothing of this one stays
});

let looking = 0; // the timer of the next look

async function look() {
  if (editor?.model.doc && !document.hidden && !talk.said) await editor.news().catch(() => {});
  hurry();
}

/** The next look is soon where something goes on. */
function hurry() {
  const { preparing = [], jobs = [] } = editor?.model.doc ?? {};
  const soon = underWay(preparing) || jobs.some((job) => job.state !== "failed");
  clearTimeout(looking);
  looking = setTimeout(look, soon ? OFTEN : SELDOM);
}

async function start() {
  offers = await about();
  talk.begin(Boolean(offers.chat));
  tab("chat");
  const name = location.hash.slice(1);
  if (name) await begin(name).catch((error) => {
    welcome();
    throw error;
  });
  else welcome();
  look();
}

guard(start()).finally(() => document.body.setAttribute("aria-busy", "false"));
