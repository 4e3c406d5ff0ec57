// @ts-check
// What is found out about a picture before anybody asks, in words. Pure.

const MARKS = { waiting: "", "under way": " …", done: " ✓", failed: " ✗" };

/** Whether something is still to come. @param {any[]} steps */
export const underWay = (steps) => steps.some(({ state }) => state === "waiting" || state === "under way");

/** One line about all steps; none where nothing is to come. @param {any[]} steps */
export function looking(steps) {
  return underWay(steps) ? `Looking: ${steps.map(({ title, state }) => title + MARKS[state]).join(" · ")}` : "";
}

/** A line for each step that failed. @param {any[]} steps */
export const failures = (steps) => steps.filter(({ state }) => state === "failed").map(({ title, trouble }) => `${title}: ${trouble}`);
