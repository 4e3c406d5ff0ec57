// @ts-check
// Commands in words, and where they would change the picture. Pure.

const WORDS = {
  select: (c) => (c.text ? `select “${c.text}”` : c.box ? "select what is in the box" : "select"),
  remove: () => "remove it", move: () => "move it", resize: (c) => `make it ${c.factor > 1 ? "larger" : "smaller"}`,
  rotate: (c) => `rotate it by ${c.degrees}°`, duplicate: () => "duplicate it",
  replace: (c) => `replace it by “${c.prompt}”`, add: (c) => `add “${c.prompt}”`, edit: (c) => `“${c.prompt}”`,
};

/** A command for people. */
export const meant = (command) => WORDS[command.do]?.(command) ?? String(command.do);

/**
 * The boxes that commands are about, to be drawn dashed before anybody said yes.
 * @param {any[]} commands @param {any} doc
 */
export function pendingMarks(commands, doc) {
  const marks = [];
  let box = doc.selection?.box ?? null;
  for (const command of commands) {
    if (command.do === "select") box = command.box ?? null;
    if (command.do === "add") marks.push({ box: command.box, words: meant(command), dashed: true });
    else if (box && command.do !== "select") {
      marks.push({ box, words: meant(command), dashed: true });
      if (command.do === "move") {
        const { dx = 0, dy = 0 } = command;
        marks.push({ box: [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy], words: "", dashed: true });
      }
    }
  }
  if (!marks.length && box && commands.some((command) => command.do === "select")) marks.push({ box, words: "select", dashed: true });
  return marks;
}
