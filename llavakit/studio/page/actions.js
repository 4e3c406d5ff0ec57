// @ts-check
// What each command of the page does; buttons, keys and bars all come here.

import { at } from "./dom.js";
import { exportDialog, keysDialog, makeDialog, makingsDialog, nameDialog, settingsDialog, versionsDialog } from "./dialogs.js";
import { pan, zoom } from "./view.js";

const TURN = 5; // degrees a key
const SIZE = 1.05; // times a key

/** @param {import("./editor.js").Editor} editor @param {any} page  {choose(tool), mode(mode), compare(rev), ask} */
export function actionsOf(editor, page) {
  const { model } = editor;
  const grain = () => Math.max(1, Math.round(Math.max(model.size.width, model.size.height) / 500));
  const onLayer = (command) => model.current && model.current.kind !== "photo" && editor.do({ ...command, layer: model.current.id });
  const zoomBy = (factor) => {
    const { width, height } = editor.stage.screen;
    editor.hands.look(zoom(model.view, factor, width / 2, height / 2, model.size, editor.stage.screen));
  };
  const fill = (command) => editor.do({ ...command, fill: "preview" }, (editor.fillGesture = crypto.randomUUID()));
  const arrow = (x, y) => (event) => {
    const step = (model.tool === "move" ? 1 : 4 / model.view.scale) * (event?.shiftKey ? 10 : 1);
    if (model.tool === "hand") editor.hands.look(pan(model.view, -x * 60, -y * 60, model.size, editor.stage.screen));
    else if (model.tool === "move") editor.nudge(x * step, y * step);
    else editor.steer(x * step, y * step);
  };
  const remove = (shadow) => (model.current && model.tool === "move" ? onLayer({ do: "remove" }) : model.doc.selection && fill({ do: "remove", shadow }));
  return {
    open: () => at("file").click(),
    undo: () => model.doc.can_undo && editor.do({ do: "undo" }), redo: () => model.doc.can_redo && editor.do({ do: "redo" }),
    remove: () => remove(false), "remove-shadow": () => remove(true),
    duplicate: async () => {
      if (!model.current) return model.doc.selection && editor.do({ do: "duplicate", dx: 4 * grain(), dy: 4 * grain() });
      return onLayer({ do: "duplicate", dx: 4 * grain(), dy: 4 * grain() });
    },
    smaller: () => onLayer({ do: "resize", factor: 1 / SIZE }), larger: () => onLayer({ do: "resize", factor: SIZE }),
    "turn-left": () => onLayer({ do: "rotate", degrees: -TURN }), "turn-right": () => onLayer({ do: "rotate", degrees: TURN }),
    raise: () => raise(1), lower: () => raise(-1),
    grow: () => model.doc.selection && editor.do({ do: "grow", pixels: grain() }), shrink: () => model.doc.selection && editor.do({ do: "grow", pixels: -grain() }),
    feather: () => model.doc.selection && editor.do({ do: "feather", radius: grain() }), invert: () => model.doc.selection && editor.do({ do: "invert" }),
    reselect: () => model.doc.can_reselect && editor.do({ do: "reselect" }),
    keep: async () => {
      if (!model.doc.selection) return;
      const label = await nameDialog("Keep the selection as", model.doc.selection.label || "object");
      if (label) await editor.do({ do: "keep_object", label });
    },
    clear: () => {
      if (model.before) return page.compare(null);
      if (model.crosshair) model.crosshair = null;
      if (model.current) editor.pick(null);
      else if (model.doc.selection) editor.do({ do: "deselect" });
      else if (page.talk.pending) page.talk.on.decline();
      editor.stage.draw();
    },
    candidate: () => {
      const { candidates, chosen } = model.doc.selection;
      editor.do({ do: "choose", candidate: (chosen + 1) % candidates.length });
    },
    enter: (event) => model.crosshair && editor.click(model.crosshair[0], model.crosshair[1], event),
    apply: () => page.talk.pending && page.talk.on.apply(page.talk.pending.proposal),
    subtract: () => page.mode(model.mode === "subtract" ? "new" : "subtract"), "add-to": () => page.mode(model.mode === "add" ? "new" : "add"),
    thinner: () => page.brush(model.brush / 1.25), wider: () => page.brush(model.brush * 1.25),
    left: arrow(-1, 0), right: arrow(1, 0), up: arrow(0, -1), down: arrow(0, 1),
    "zoom-in": () => zoomBy(1.4), "zoom-out": () => zoomBy(1 / 1.4), "zoom-fit": () => editor.fit(),
    words: () => at("words").focus(), ask: () => page.ask(),
    compare: () => page.compare(model.before ? null : model.doc.versions[0]?.rev ?? 0),
    versions: () => versionsDialog(editor, page.compare), export: () => exportDialog(editor), help: keysDialog,
    settings: () => settingsDialog(editor, page.prefer),
    make: () => makingsDialog(editor),
    replace: () => makeDialog("replace", editor), add: () => makeDialog("add", editor), edit: () => makeDialog("edit", editor), layout: () => makeDialog("generate", editor),
  };

  function raise(by) {
    const { current, doc } = model;
    if (!current) return null;
    const position = doc.layers.findIndex((layer) => layer.id === current.id) + by;
    return position > 0 && position < doc.layers.length && editor.do({ do: "layer", layer: current.id, position });
  }
}
