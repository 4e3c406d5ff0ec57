// @ts-check
// Which engine is asked for what. Pure.

/** What engines are for: a name, the role that does it, which prompts it has to understand, words for people. */
export const PURPOSES = [
  { name: "segment", role: "segment", takes: "marks", words: "Select by strokes, clicks and boxes" }, { name: "words", role: "segment", takes: "words", words: "Select by words" },
  { name: "inpaint", role: "inpaint", takes: "", words: "Fill what was removed" }, { name: "invent", role: "invent", takes: "", words: "Replace and add" },
  { name: "edit", role: "edit", takes: "", words: "Change by words" }, { name: "generate", role: "generate", takes: "", words: "Make a picture from boxes" },
];

const named = (purpose) => PURPOSES.find((each) => each.name === purpose) ?? PURPOSES[0];

/** All that could do it, also those that are not here. @param {any[]} engines @param {string} purpose */
export function enginesFor(engines, purpose) {
  const { role, takes } = named(purpose);
  return engines.filter((each) => each.role === role && (!takes || each.takes.includes(takes)));
}

/**
 * The name of the engine that is asked: what somebody chose, or the server's choice. Where that understands no words,
 * one that does, a learned one first. Empty where none is here.
 * @param {any[]} engines @param {Record<string, string>} chosen @param {string} purpose
 */
export function preferred(engines, chosen, purpose) {
  const here = enginesFor(engines, purpose).filter((each) => !each.lacks);
  const able = engines.some((each) => each.chosen && each.role === named(purpose).role) ? here : [];
  const found = here.find((each) => each.name === chosen[purpose]) ?? here.find((each) => each.chosen) ?? able.find((each) => each.quality === "learned") ?? able[0];
  return found?.name ?? "";
}
