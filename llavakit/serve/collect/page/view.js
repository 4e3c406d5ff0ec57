// What is on the screen. Everything that people or models wrote goes in as text, never as markup.

const at = (id) => document.getElementById(id);
let urls = []; // of the pictures that are shown, to be given back

const QUESTIONS = {
  hallucination: "Which answer is less hallucinated?",
  helpfulness: "Which answer is more helpful?",
};
const SAID = { left: "1", right: "2", tie: "a tie", both_bad: "both bad" };

export function show(name) {
  for (const each of ["welcome", "task", "end"]) at(each).hidden = each !== name;
}

export function tell(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

export function drawProgress(who, done, open) {
  at("count").hidden = false;
  at("count").textContent = `${done} done, ${open} left`;
  at("bar").style.width = `${done + open ? (100 * done) / (done + open) : 100}%`;
  at("progress").setAttribute("aria-valuemax", done + open);
  at("progress").setAttribute("aria-valuenow", done);
  at("who").hidden = false;
  at("who").textContent = who;
}

// Draws a pair; resolves when its pictures are there, or cannot be had.
export async function drawTask(task, load) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  const media = task.messages.flatMap((message) => message.parts).filter((part) => part.text === undefined);
  const sheet = document.createElement("div");
  sheet.className = media.length > 1 ? "media many" : "media";
  const waiting = media.map((part, number) => addMedium(sheet, part, media.length > 1 ? number + 1 : 0, load));
  const parts = task.messages.map((message) => drawMessage(message, media));
  at("prompt").replaceChildren(...(media.length ? [sheet] : []), ...parts);
  at("task").classList.toggle("only-text", !media.length);
  document.querySelectorAll(".answer .text").forEach((node, side) => (node.textContent = task.answers[side]));
  show("task");
  window.scrollTo(0, 0);
  await Promise.all(waiting);
}

export function drawQuestion(asked, said, earlier, canGoBack) {
  const title = [QUESTIONS[asked]];
  if (said) {
    const note = document.createElement("span");
    note.className = "said";
    note.textContent = `less hallucinated: ${SAID[said]}`;
    title.push(note);
  }
  at("question").replaceChildren(...title);
  for (const button of document.querySelectorAll("[data-choice]"))
    button.classList.toggle("chosen", button.dataset.choice === earlier);
  at("back").disabled = !canGoBack;
}

export function mark(choice) {
  for (const button of document.querySelectorAll("[data-choice]"))
    button.classList.toggle("chosen", button.dataset.choice === choice);
}

export function drawEnd(who, done) {
  drawProgress(who, done, 0);
  at("result").textContent = done
    ? `Nothing is left to judge; ${done} ${done === 1 ? "vote" : "votes"} of ${who} are kept. You may close this page.`
    : "There is nothing to judge for you.";
  at("reopen").hidden = !done;
  show("end");
}

function drawMessage(message, media) {
  const node = document.createElement("div");
  node.className = `message ${message.role}`;
  message.parts.forEach((part) => {
    if (part.text !== undefined) node.append(part.text);
    else if (media.length > 1) {
      const place = document.createElement("span");
      place.className = "at";
      place.textContent = ` [${media.indexOf(part) + 1}] `;
      node.append(place);
    }
  });
  const first = [...node.childNodes].find((child) => child.nodeType === Node.TEXT_NODE);
  if (first) first.textContent = first.textContent.trimStart();
  return node;
}

async function addMedium(sheet, part, number, load) {
  const frame = document.createElement("figure");
  sheet.append(frame);
  if (number) {
    const caption = document.createElement("figcaption");
    caption.textContent = number;
    frame.append(caption);
  }
  const isImage = part.image !== undefined;
  const node = document.createElement(isImage ? "img" : "video");
  const ready = new Promise((done, failed) => {
    node.addEventListener(isImage ? "load" : "loadeddata", done);
    node.addEventListener("error", failed);
  });
  try {
    const url = URL.createObjectURL(await load(isImage ? part.image : part.video));
    urls.push(url);
    if (isImage) node.alt = number ? `picture ${number}` : "the picture";
    else Object.assign(node, { controls: true, muted: true, loop: true, playsInline: true });
    node.src = url;
    frame.prepend(node);
    await ready;
    if (isImage) {
      node.classList.toggle("small", Math.max(node.naturalWidth, node.naturalHeight) < 160);
      node.addEventListener("click", () => enlarge(node));
    }
  } catch {
    node.remove();
    const lost = document.createElement("div");
    lost.className = "lost";
    lost.textContent = isImage ? "This picture cannot be shown." : "This video cannot be played here.";
    frame.append(lost);
  }
}

function enlarge(picture) {
  const large = at("large");
  large.firstElementChild.src = picture.src;
  large.showModal();
}

at("large").addEventListener("click", () => at("large").close());
