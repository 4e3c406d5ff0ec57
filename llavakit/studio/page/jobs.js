// @ts-check
// What engines are making, or will: a card for each over the picture, with a way to take it back.

import { at, button, make } from "./dom.js";

const WORDS = { waiting: "Waits", "under way": "Making", failed: "Failed" };

/** @param {any[]} jobs @param {(id: string) => void} cancel */
export function drawJobs(jobs, cancel) {
  const list = at("jobs"), shown = JSON.stringify(jobs.map(({ id, state }) => [id, state]));
  if (list.dataset.shown !== shown) {
    const focused = list.contains(document.activeElement);
    list.dataset.shown = shown;
    list.replaceChildren(...jobs.map((job) => make("li", { class: job.state === "failed" ? "failed" : null },
      make("span", { title: job.words }, make("strong", {}, WORDS[job.state]), ` ${job.trouble || job.words}`),
      job.state === "failed" ? null : make("progress", { max: 1, "aria-label": `how much of it is made` }),
      button(job.state === "failed" ? "Put away" : "Take back", () => cancel(job.id), { glyph: "close" }))));
    if (focused) (list.querySelector("button") ?? at("stage")).focus();
  }
  for (const [i, job] of jobs.entries()) {
    const bar = list.children[i].querySelector("progress");
    if (bar) bar.value = job.done;
  }
}
