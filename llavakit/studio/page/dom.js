// @ts-check
// Elements. What people, files and models wrote goes in as text, never as markup.

/** @returns {any} */
export const at = (id) => document.getElementById(id);

/** An element with attributes (those that begin with `on` are listeners) and children. @returns {any} */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** One of the pictures at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button that shows words, or a picture with words for those who do not see it.
 * @param {string} words @param {(event: Event) => any} click @param {Record<string, any>} [attributes]
 */
export function button(words, click, { glyph = "", title = words, ...attributes } = {}) {
  const inside = glyph ? [icon(glyph), make("span", { class: "sr" }, words)] : [words];
  return make("button", { type: "button", title, onclick: click, class: glyph ? "icon" : null, ...attributes }, ...inside);
}
