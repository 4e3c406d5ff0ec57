"""The interactive editor without its page: one picture, layers, a selection, one history, engines behind protocols.

A `Session` (session.py) holds one picture and answers commands; `Document` (document.py) is the same for Python:
`Document.open("cat.png").segment(text="cat").move(dx=40).save("out.png")`.

    bench = default_bench()                          # the engines (defaults.py), one for the whole process
    session = Session.create(folder, picture, bench) # bytes or a path; the folder gets journal.jsonl, tiles.bin
    session = Session.open(folder, bench)            # everything that was answered is there again
    answer = session.apply(command, id=..., base_rev=..., gesture=...)

`command` is a dict or an object of commands.py. It is on disk before `apply` returns. `id` (made by who asks): the
same id again gives the first answer and changes nothing. `base_rev`: the revision that the asker sees; where it is
not the newest, `Conflict` (`.rev` is the newest) and nothing happens: look, and ask again. Commands with one
`gesture` (any text) are undone and redone together. A command that cannot work is an `EditError`, one line.

`answer.rev` numbers what can be seen; every answer has a new one, an undo too. `answer.damage`: the box of the
canvas whose pixels may differ from the revision before, or None. `answer.seconds`; `answer.notes`: warnings.
`session.describe()`: everything a page needs but pixels, as JSON: rev, size, layers (id, name, kind, size, matrix,
opacity, visible), selection (label, box, area, candidates, chosen, prompts), objects, holes, variants, versions,
can_undo, can_redo, talk.
Pixels: `session.tile(rev, z, x, y, layer=None)` uint8[h, w, 4], squares of 256 px, halved z times; all that is
visible, or one layer in its own pixels. `session.mask_tile(rev, z, x, y)` uint8[h, w], the selection (or
`candidate=1`). `session.cutout(rev, layer)` one whole layer. `Gone` where a revision is no longer kept.

Commands (`do`, then fields; all lengths are pixels of the canvas, x to the right, y down; `layer` is an id):

    select      points [[x, y, inside]], strokes [{path [[x, y]], width, inside}], box [x0, y0, x1, y1], text,
                how new|refine|add|subtract|intersect, engine
                new and refine give up to three candidates; refine adds to the prompts and keeps the mask before
    choose      candidate                       another candidate of the selection (Tab)
    paint       path [[x, y]], width, erase     the selection by hand, as a brush
    grow        pixels                          negative shrinks
    feather     radius
    invert
    deselect
    reselect                                    the selection before the last deselect, edit or new selection
    load_mask   rle {size [h, w], counts}, label     a mask from elsewhere (COCO)
    keep_object label                           the selection joins the labelled objects
    pick_object object                          an object's id: its mask is the selection
    drop_object object
    remove      fill preview|final, grow, shadow, layer   what is selected (its place is filled), or a whole layer
    refine      engine                          the final fill in the place of every preview fill
    lift        fill, grow, label               what is selected becomes a layer, its place is filled
    move        dx, dy, layer, fill             without `layer`: what is selected is lifted first
    resize      factor, layer, fill             about the layer's middle
    rotate      degrees, layer, fill            clockwise, about its middle
    transform   layer, matrix [a, b, c, d, e, f]     x' = a x + b y + c, y' = d x + e y + f: layer to canvas
    duplicate   dx, dy, layer
    layer       layer, name, opacity, visible, position      change what is given; position 0 is the lowest
    merge       layer                           into the one below it
    replace     prompt, seed, count, engine     what is selected, by the inpainting engine
    add         box, prompt, seed, count, engine
    edit        prompt, seed, count, engine     the whole picture, or what is selected, by an instruction
    generate    caption, boxes, phrases, seed, count, engine     a new picture in the layout of the boxes
    vary        variant                         another of the last engine's results
    undo, redo                                  by gesture
    save_version name; restore name             versions are never forgotten
    say         role user|assistant, text, boxes, proposal [commands]      the chat; no step of undo
"""
