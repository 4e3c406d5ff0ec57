// @ts-check
// Every command has a key. Pure: a table, and how an event finds its row.

/** [key as it is shown, what it does, its words for people]; Mod is Ctrl or Cmd. */
export const KEYS = [
  ["B", "tool:stroke", "Select by a stroke"], ["W", "tool:click", "Select by a click"], ["R", "tool:box", "Select by a box"],
  ["P", "tool:brush", "Paint the selection by hand"], ["V", "tool:move", "Move, resize, rotate"], ["Space", "tool:hand", "Pan, while it is held"],
  ["T", "words", "Select by words"], ["Enter", "enter", "Select what is under the crosshair"],
  ["Tab", "candidate", "Another of the things that may be meant"], ["E", "subtract", "Take away from the selection"],
  ["[", "thinner", "Thinner stroke"], ["]", "wider", "Wider stroke"],
  ["G", "grow", "Grow the selection"], ["Shift+G", "shrink", "Shrink it"], ["F", "feather", "Feather it"], ["I", "invert", "Invert it"],
  ["U", "reselect", "The last selection again"], ["K", "keep", "Keep it as a named object"], ["Escape", "clear", "Clear it, or say no"],
  ["Delete", "remove", "Remove what is selected"], ["Shift+Delete", "remove-shadow", "Remove it with its shadow"], ["Mod+D", "duplicate", "Duplicate"], ["M", "replace", "Replace by something else"], ["A", "add", "Add something in the box"], ["X", "edit", "Change the picture by words"],
  ["L", "layout", "A new picture from boxes"], ["N", "make", "All that engines can make"], ["ArrowLeft", "left", "Crosshair or object to the left (Shift: farther)"],
  ["ArrowRight", "right", "to the right"], ["ArrowUp", "up", "up"], ["ArrowDown", "down", "down"],
  [",", "turn-left", "Rotate to the left"], [".", "turn-right", "Rotate to the right"], ["<", "smaller", "Smaller"], [">", "larger", "Larger"],
  ["PageUp", "raise", "Object one up"], ["PageDown", "lower", "Object one down"],
  ["Mod+Z", "undo", "Undo"], ["Mod+Shift+Z", "redo", "Redo"], ["Mod+Y", "redo", "Redo"],
  ["+", "zoom-in", "Larger view"], ["-", "zoom-out", "Smaller view"], ["0", "zoom-fit", "See all of it"],
  ["C", "compare", "Before and after"], ["H", "versions", "Versions"], ["O", "open", "Open another picture, or masks"], ["Mod+S", "export", "Export"],
  ["/", "ask", "Ask the chat"], ["Mod+Enter", "apply", "Apply what the chat proposes"], ["S", "settings", "Which engine does what"], ["?", "help", "This list"],
];

const TABLE = new Map(KEYS.map(([key, what]) => [key, what]));
TABLE.set("Backspace", "remove").set("=", "zoom-in").set(" ", "tool:hand");
const PRINTED = new Set("[],.<>+-=/?0".split("")); // signs that some keyboards need Shift for

/** What an event of a key asks for, or undefined. */
export function meaning(event) {
  if (event.altKey) return undefined;
  let key = event.key.length === 1 && /[a-z]/i.test(event.key) ? event.key.toUpperCase() : event.key;
  if (event.shiftKey && !PRINTED.has(key) && !key.startsWith("Arrow") && key !== "Tab") key = `Shift+${key}`;
  if (event.ctrlKey || event.metaKey) key = `Mod+${key}`;
  return TABLE.get(key);
}
