"""The model on packed rows: sharing, packing and freezing change nothing but the cost."""

import torch

from llavakit.core.types import Segment
from llavakit.data.encode import Sample, join
from llavakit.data.pack import collate
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.train.objectives import SFT
from tests import tiny


def tiles(samples: list[Sample]) -> list[torch.Tensor]:
    return [media.tiles() for sample in samples for media in sample.media]


def gradients(model, batches) -> dict[str, torch.Tensor]:
    """Gradients of the summed loss over batches, by parameter name."""
    model.zero_grad(set_to_none=True)
    for batch in batches:
        SFT().loss(model, batch).terms["tokens"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(
            mine[name], theirs[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def two_answers(tmp_path, encoder):
    image = tiny.picture(tmp_path / "a.png")
    return [
        encoder.encode(Conversation((user("What color?", [image]), assistant(text))))
        for text in ("red", "blue one")
    ]


def test_a_shared_prompt_gives_the_logits_of_separate_sequences(tmp_path):
    ck = tiny.checkpoint()
    samples = two_answers(tmp_path, tiny.encoder())
    joined = join(samples)
    assert [s.parent for s in joined.segments] == [None, 0, 0]
    shared = collate([joined], tiles(samples[:1]), learn=False)
    with torch.no_grad():
        logits = ck.model.logits(ck.model.hidden(shared))
        for sample, leaf in zip(samples, shared.segments[1:], strict=True):
            alone = ck.model.logits(ck.model.hidden(collate([sample], tiles([sample]), learn=False)))
            rows = [*range(shared.segments[0].end), *range(leaf.start, leaf.end)]
            torch.testing.assert_close(logits[rows], alone, atol=1e-4, rtol=1e-4)


def test_a_shared_prompt_gives_the_loss_and_gradients_of_separate_sequences(tmp_path):
    ck = tiny.checkpoint()
    samples = two_answers(tmp_path, tiny.encoder())
    together = gradients(ck.model, [collate([join(samples)], tiles(samples[:1]))])
    apart = gradients(ck.model, [collate([s], tiles([s])) for s in samples])
    assert_same(together, apart)
    assert any(name.startswith("tower.") for name in together), "gradients must reach the tower"


def test_a_tree_of_depth_three_equals_its_paths():
    model = tiny.checkpoint().model
    ids = torch.randint(3, 100, (14,), generator=torch.Generator().manual_seed(1))
    tree = Sample(
        tuple(ids.tolist()),
        (0.0,) * 4 + (1.0,) * 10,
        (Segment(0, 4), Segment(4, 7, 0), Segment(7, 10, 1), Segment(10, 12, 1), Segment(12, 14, 0)),
    )
    paths = [[(0, 4), (4, 7), (7, 10)], [(0, 4), (4, 7), (10, 12)], [(0, 4), (12, 14)]]
    with torch.no_grad():
        row = collate([tree], learn=False)
        hidden = model.hidden(row)
        for path in paths:
            at = torch.cat([torch.arange(*span) for span in path])
            alone = Sample(tuple(ids[at].tolist()), (0.0,) * len(at), (Segment(0, len(at)),))
            torch.testing.assert_close(
                hidden[at], model.hidden(collate([alone], learn=False)), atol=1e-4, rtol=1e-4
            )


def test_packed_equals_one_by_one(tmp_path):
    ck, encoder = tiny.checkpoint(), tiny.encoder()
    talks = [
        (user("What color?", [tiny.picture(tmp_path / "a.png", 1, (33, 60))]), assistant("red")),
        (user("Say a word."), assistant("naïve café 🙂")),
        (
            user("Two?", [tiny.picture(tmp_path / f"{i}.png", i) for i in (2, 3)]),
            assistant("yes"),
            user("Sure?"),
            assistant("no"),
        ),
    ]
    samples = [encoder.encode(Conversation(talk)) for talk in talks]
    packed = gradients(ck.model, [collate(samples, tiles(samples))])
    apart = gradients(ck.model, [collate([s], tiles([s])) for s in samples])
    assert_same(packed, apart)


def test_features_of_the_tower_can_stand_for_pixels(tmp_path):
    ck = tiny.checkpoint()
    samples = two_answers(tmp_path, tiny.encoder())[:1]
    (pixels,) = tiles(samples)
    with torch.no_grad():
        from_pixels = ck.model.hidden(collate(samples, [pixels]))
        from_rows = ck.model.hidden(collate(samples, [ck.model.tower(pixels)]))
    assert torch.equal(from_pixels, from_rows)


def test_every_image_row_reaches_its_slot(tmp_path):
    """Two images of one message: changing the second changes only what stands behind its first token."""
    ck, encoder = tiny.checkpoint(), tiny.encoder()
    paths = [tiny.picture(tmp_path / f"{i}.png", i) for i in range(3)]
    first = encoder.encode(Conversation((user("?", [paths[0], paths[1]]), assistant("x"))))
    second = encoder.encode(Conversation((user("?", [paths[0], paths[2]]), assistant("x"))))
    with torch.no_grad():
        a, b = (ck.model.embed(collate([s], tiles([s]))) for s in (first, second))
    differs = (a != b).any(dim=1).nonzero().flatten().tolist()
    slots = [i for i, token in enumerate(first.ids) if token == -200]
    assert differs == slots[4:]
