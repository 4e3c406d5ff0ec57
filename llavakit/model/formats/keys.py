"""Names of weights: those of released LLaVA code and those of `transformers`, from and to ours. One key at a time.

Ours: `tower.vision.*`, `connector.linear_1.*`, `connector.linear_2.*`, `language.*` (the decoder's own names) and
`newline.*`, and of a reward model `score.*`. Every rule is anchored at the start of the name.
"""

SEPARATORS = ("image_newline", "faster_token")  # learned rows, in the order of vision/rows.py

HEAD_OF_REWARDS = ("score.weight", "score.bias")
ORIGINAL_TOWER = "model.vision_tower.vision_tower.vision_model."
ORIGINAL_LAYERS = {"": "linear_1.", "0.": "linear_1.", "2.": "linear_2."}  # a linear projector has no number
# Buffers that older versions stored; all are made from the config.
BUFFERS = (".position_ids", ".rotary_emb.inv_freq")
TEXT_SIDE = ("text_model.", "visual_projection.", "text_projection.", "logit_scale", "logit_bias")


def from_original(key: str) -> str | None:
    """Our name for a weight of a released LLaVA directory; None for what has no effect."""
    if key.endswith(BUFFERS) or key.startswith("model.vision_resampler."):
        return None  # the resamplers that are read (see original.py) have no weights
    if key.startswith("model.vision_tower.vision_tower."):
        rest = key.removeprefix("model.vision_tower.vision_tower.").removeprefix("vision_model.")
        return "tower.vision." + rest
    if key.startswith("model.mm_projector."):
        return _connector(key.removeprefix("model.mm_projector."))
    if key.removeprefix("model.") in SEPARATORS:
        return "newline." + key.removeprefix("model.")
    return "language." + key


def to_original(key: str, *, linear: bool) -> str:
    """The released name of one of our weights; `linear` says that the connector is a single matrix."""
    part, _, rest = key.partition(".")
    if part == "tower":
        return ORIGINAL_TOWER + rest.removeprefix("vision.")
    if part == "connector":
        layer, _, leaf = rest.partition(".")
        number = "" if linear else {"linear_1": "0.", "linear_2": "2."}[layer]
        return f"model.mm_projector.{number}{leaf}"
    return "model." + rest if part == "newline" else rest


def from_projector_file(key: str) -> str | None:
    """Our name for a weight of a stage-1 mm_projector.bin, whose prefixes vary from release to release."""
    _, mark, rest = key.rpartition("mm_projector.")
    if mark:
        return _connector(rest)
    leaf = key.removeprefix("base_model.").removeprefix("model.").removeprefix("model.")
    if leaf in SEPARATORS:
        return "newline." + leaf
    if leaf.removeprefix("embed_tokens.") == "weight":
        return "language.model.embed_tokens.weight"
    return None if leaf.startswith("vision_resampler.") else key


def from_tower(key: str) -> str | None:
    """Our name for a weight of a CLIP or SigLIP directory; None for its text half."""
    if key.endswith(BUFFERS) or key.startswith(TEXT_SIDE):
        return None
    return "tower.vision." + key.removeprefix("vision_model.")


def from_hf(key: str, *, base: str, children: frozenset[str]) -> str:
    """Our name for a stored tensor, from any spelling that `transformers` has written for LLaVA.

    `base` is the name of the decoder without its head (`model` in Llama), `children` those of it and the head.
    """
    direct = key.removeprefix("language_model.")
    if direct != key and direct.partition(".")[0] in children:
        return "language." + direct
    key = key.removeprefix("model.")
    if key.startswith("vision_tower."):
        rest = key.removeprefix("vision_tower.").removeprefix("vision_model.")
        return "tower." + (rest if rest.startswith("net.") else "vision." + rest)
    if key.startswith("multi_modal_projector."):
        return "connector." + key.removeprefix("multi_modal_projector.")
    if key in SEPARATORS:
        return "newline." + key
    if key in HEAD_OF_REWARDS:
        return key
    if key == "lm_head.weight":
        return "language.lm_head.weight"
    return f"language.{base}." + key.removeprefix("language_model.")


def to_hf(key: str) -> str:
    """The name of one of our weights in the released hub files of `transformers` classes."""
    part, _, rest = key.partition(".")
    if part == "tower":
        return "vision_tower.vision_model." + rest.removeprefix("vision.")
    if part == "connector":
        return "multi_modal_projector." + rest
    if key in HEAD_OF_REWARDS:
        return key
    return rest if part == "newline" else "language_model." + rest


def _connector(rest: str) -> str:
    number, leaf = rest[: rest.rfind(".") + 1], rest[rest.rfind(".") + 1 :]
    layer = ORIGINAL_LAYERS.get(number, f"{number}")  # an unknown layer keeps its number, and is reported
    return f"connector.{layer}{leaf}"
