// @ts-check
// The conversation: what was said, what is being said, where the model points, what it proposes.

import { at, button, make } from "./dom.js";
import { meant } from "./proposals.js";

const EMPTY = "Ask what is in the picture, or what changed.\nThe answer is about the picture as it is now.";
const ALONE = "No model is connected. To talk about the picture start with\nllavakit studio --model DIR\nor llavakit studio --remote URL".replaceAll("-", "\u2011");

export class TalkPanel {
  /** @param {any} on  {ask(text), stop(), point(boxes), apply(commands), decline(), change(text)} */
  constructor(on) {
    this.on = on;
    this.said = null; // the answer that is coming
    this.pending = null; // the turn whose proposal waits for a yes or no
    this.drawn = "";
    const field = at("question");
    at("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.submit();
    });
  }

  submit() {
    const field = at("question"), text = field.value.trim();
    if (this.said) return this.on.stop();
    if (!text) return;
    field.value = "";
    this.on.ask(text);
  }

  begin(model) {
    at("talk").dataset.empty = model ? EMPTY : ALONE;
    at("chat").classList.toggle("mute", !model);
  }

  /** The turns of the document. */
  draw(talk) {
    const now = JSON.stringify([talk.length, talk.at(-1)?.at]);
    if (now !== this.drawn) {
      this.drawn = now;
      at("talk").replaceChildren(...talk.map((turn) => this.turn(turn)), ...(this.said ? [this.said] : []));
      this.down();
    }
    const last = talk.at(-1);
    this.pending = last?.role === "assistant" && last.proposal.length ? last : null;
    this.offer(this.pending);
  }

  turn({ role, text, boxes }) {
    const words = make("div", { class: `said ${role}` }, text);
    for (const [i, box] of boxes.entries()) {
      const show = () => this.on.point([box]);
      words.append(" ", make("button", { type: "button", class: "place", onclick: show, onfocus: show, onpointerenter: show, onblur: () => this.on.point([]), onpointerleave: () => this.on.point([]) }, `show ${i + 1}`));
    }
    return words;
  }

  /** What is proposed, with the three answers to it. */
  offer(turn) {
    const now = turn ? `${turn.at} ${turn.outdated}` : "";
    if (at("pending").dataset.of === now) return;
    at("pending").dataset.of = now;
    at("pending").replaceChildren();
    if (!turn) return;
    const field = make("input", { "aria-label": "what to do instead", placeholder: "What instead?" });
    const change = make("form", { hidden: true, onsubmit: (event) => (event.preventDefault(), field.value.trim() && this.on.change(field.value.trim())) }, field, make("button", { type: "submit" }, "Ask"));
    at("pending").append(make("section", { class: "offer", "aria-label": "proposed edit" },
      make("p", {}, make("strong", {}, "Proposed: "), turn.proposal.map(meant).join(", then ")),
      turn.outdated ? make("p", { class: "fine" }, "The picture has changed since then.") : null,
      make("div", {}, button("Apply", () => this.on.apply(turn.proposal), { class: "primary", title: "Apply (Ctrl+Enter)" }),
        button("Change", () => ((change.hidden = !change.hidden), field.focus())), button("No", () => this.on.decline(), { title: "No (Escape)" })),
      change));
  }

  /** A question is on its way. */
  asked(text) {
    this.said = make("div", { class: "said assistant waiting" });
    at("talk").append(make("div", { class: "said user" }, text), this.said);
    this.button("close", "Stop");
    this.down();
  }

  /** What the button beside the field does now. */
  button(glyph, words) {
    at("send").querySelector("use").setAttribute("href", `#i-${glyph}`);
    at("send").querySelector(".sr").textContent = words;
    at("send").title = `${words} (Enter)`;
  }

  piece(text) {
    this.said.append(text);
    this.down();
  }

  done() {
    this.said?.remove();
    this.said = null;
    this.drawn = "";
    this.button("send", "Send");
  }

  trouble(lines) {
    at("talk").append(...lines.map((line) => make("div", { class: "said failed" }, line)));
    this.down();
  }

  down() {
    at("talk").scrollTop = at("talk").scrollHeight;
  }
}
