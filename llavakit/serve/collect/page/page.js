// A person judges pairs: fetch one, ask one or two questions, send the answers, fetch the next.

import { drawEnd, drawProgress, drawQuestion, drawTask, mark, show, tell } from "./view.js";

const KEYS = {
  1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right",
  t: "tie", 0: "tie", b: "both_bad", s: "skip", Backspace: "back",
};
const FLASH = 120; // milliseconds that a choice is seen before the next pair comes
const LOST = "Open the address that llavakit collect printed.";

let key = "";
let always = false; // ask both questions, whatever the first was answered with
let fixed = null; // everybody's name, where the command line gave one
let who = "";
let task = null;
let said = {};
let busy = false;
let looked = 0; // milliseconds so far
let since = null; // when the person began to look, null while nobody does

function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem("key", given);
    history.replaceState(null, "", location.pathname); // not for the next one who looks at the screen
  }
  return given ?? sessionStorage.getItem("key") ?? "";
}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("The server does not answer. Is llavakit collect still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Error(LOST);
  const what = await answer.json().catch(() => ({}));
  throw new Error(what.error ?? `The server said ${answer.status}.`);
}

// One thing at a time: keys that are hit while something is on its way do nothing.
async function alone(work) {
  if (busy) return;
  setBusy(true);
  try {
    await work();
    tell("");
  } catch (error) {
    mark(null);
    tell(error.message);
  } finally {
    setBusy(false);
  }
}

function setBusy(is) {
  busy = is;
  document.body.setAttribute("aria-busy", is);
}

async function next() {
  await open(`api/task?annotator=${encodeURIComponent(who)}`);
}

async function open(path) {
  const found = await (await call(path)).json();
  if (!found.item) {
    task = null;
    return drawEnd(who, found.done);
  }
  task = found;
  said = {};
  stopClock();
  looked = 0;
  drawProgress(who, task.done, task.open);
  ask("hallucination");
  await drawTask(task, async (number) => (await call(`api/media/${found.item}/${number}`)).blob());
  startClock();
}

function ask(question) {
  task.asked = question;
  drawQuestion(question, said.hallucination, task.earlier?.[question] ?? null, task.done > 0 || Boolean(said.hallucination));
}

async function choose(choice) {
  mark(choice);
  const winner = choice === "left" || choice === "right";
  if (task.asked === "hallucination" && (choice === "tie" || (always && winner))) {
    said = { hallucination: choice };
    await new Promise((done) => setTimeout(done, FLASH));
    return ask("helpfulness");
  }
  const ballot = { ...said, [task.asked]: choice };
  stopClock();
  try {
    await Promise.all([
      call("api/vote", { annotator: who, item: task.item, ...ballot, seconds: looked / 1000 }),
      new Promise((done) => setTimeout(done, FLASH)),
    ]);
  } catch (error) {
    startClock();
    throw new Error(`Not kept. ${error.message} Choose again to send it again.`);
  }
  await next();
}

async function back() {
  if (said.hallucination) {
    said = {};
    return ask("hallucination");
  }
  if (task && !task.done) return;
  const before = task && task.earlier ? task.item : "";
  await open(`api/task?annotator=${encodeURIComponent(who)}&before=${before}`);
  if (!task) await next(); // there is none before it
}

function startClock() {
  if (!document.hidden && since === null) since = performance.now();
}

function stopClock() {
  if (since !== null) looked += performance.now() - since;
  since = null;
}

async function begin(name) {
  who = name;
  if (!fixed) localStorage.setItem("annotator", who);
  await next();
}

function welcome() {
  task = null;
  show("welcome");
  const field = document.getElementById("name");
  field.value = localStorage.getItem("annotator") ?? "";
  field.focus();
  field.select();
}

document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : task && startClock()));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target instanceof HTMLInputElement || document.getElementById("large").open) return;
  const what = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!what) return;
  if (what === "back" ? !who : !task) return;
  event.preventDefault();
  alone(() => (what === "back" ? back() : choose(what)));
});

document.getElementById("task").addEventListener("click", (event) => {
  const button = event.target.closest("[data-choice]");
  if (!button || !task || String(getSelection())) return; // who marks words of an answer does not choose it
  button.blur();
  alone(() => choose(button.dataset.choice));
});

for (const id of ["back", "reopen"]) document.getElementById(id).addEventListener("click", () => alone(back));

document.getElementById("who").addEventListener("click", () => fixed || alone(async () => welcome()));

document.getElementById("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = document.getElementById("name").value.trim();
  if (name) alone(() => begin(name));
});

async function start() {
  key = takeKey();
  if (!key) throw new Error(LOST);
  const rules = await (await call("api/collection")).json();
  always = rules.always_ask_both;
  fixed = rules.annotator;
  if (fixed) await begin(fixed);
  else welcome();
}

alone(start);
