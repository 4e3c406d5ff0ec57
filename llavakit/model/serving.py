"""Which models serving engines can express: rules read from vLLM 0.32 and SGLang 0.5.23, with the reasons.

vLLM reads the four classes of `transformers` through classes of its own, which count image tokens themselves and
leave out what hardly anybody uses. SGLang's class for that layout is made for Pixtral (it knows neither CLIP's
class row nor newlines); LLaVA it reads in the layout of the original repositories, see docs/serving.md.
"""

from llavakit.model.card import Card
from llavakit.model.formats.original import TYPES
from llavakit.model.hf_config import Fit, hf_fit, shared_differences
from llavakit.vision.anyres import SLACK, AnyresConfig

VLLM_TILES = 9  # its OneVision class counts tokens as if every model were anyres_max_9
LINEAR = (
    "connector.kind=linear: its projector has two layers with an activation of its own list, and no identity"
)


def vllm_fit(card: Card) -> Fit:
    """The class of vLLM that serves a card, and what is lost with it; without a class, why there is none."""
    fit, anyres = hf_fit(card), card.image.anyres
    if fit.model_type is None:
        return fit
    onevision, video_only = fit.model_type == "llava_onevision", fit.model_type == "llava_next_video"
    patch = card.image.size // card.image.grid
    refusals = [
        (card.connector.kind == "linear", LINEAR),
        (
            onevision and anyres is not None and not _counts_alike(anyres, card.image.size),
            f"image.anyres.max_tiles: it counts image tokens for {VLLM_TILES} tiles, whatever the model says",
        ),
        (
            video_only and card.image.size < patch**2,
            f"image.size={card.image.size}: its pooling of frames divides by size // patch**2, here by zero",
        ),
    ]
    reasons = tuple(reason for wrong, reason in refusals if wrong)
    if reasons:
        return Fit(None, reasons)
    frames = 0 if card.video is None else card.video.max_frames
    notes = [
        (video_only, "images: its class for this model takes one video, and no images"),
        (
            anyres is not None and card.image.several == "pad" and not video_only,
            "image.several=pad: several images of one sample are padded to one tile here, laid out by AnyRes there",
        ),
        (
            card.video is not None,
            "video: it chooses the frames, evenly over the whole file; start it with --media-io-kwargs "
            f'\'{{"video": {{"num_frames": {frames}}}}}\'',
        ),
    ]
    return Fit(fit.model_type, (*shared_differences(card), *(what for holds, what in notes if holds)))


def without_videos(card: Card) -> Card:
    """The card of the same model for pictures alone."""
    return card.model_copy(update={"video": None})


def sglang_fit(card: Card, decoder: str) -> Fit:
    """The same for SGLang and the original layout, by its source: not one of these models was run in it.

    `decoder` is the model_type of the language model's config.
    """
    image, anyres = card.image, card.image.anyres
    refusals = [
        (decoder not in TYPES, f"language model {decoder}: it has {', '.join(TYPES)}"),
        (card.tower.kind != "transformers", f"tower.kind={card.tower.kind}: its towers are CLIP and SigLIP"),
        (card.connector.kind == "linear", LINEAR),
        (card.connector.standardize, "connector.standardize: it takes the tower's rows as they are"),
        (image.kind == "keep", "image.kind=keep: its images are square, pad or AnyRes"),
        (
            anyres is not None and (anyres.merge != "unpad" or anyres.base != "squash" or anyres.max_pool),
            "image.anyres: it counts tokens for merge=unpad, base=squash and no max_pool",
        ),
    ]
    reasons = tuple(reason for wrong, reason in refusals if wrong)
    if reasons:
        return Fit(None, reasons)
    notes = [
        (
            card.video is not None,
            "video: it puts a newline behind every frame, and counts pooled frames only if there are more than 16",
        ),
        (
            image.several == "same",
            "image.several=same: it pads several images of one sample to one tile each",
        ),
    ]
    return Fit(TYPES[decoder], tuple(what for holds, what in notes if holds))


def _counts_alike(anyres: AnyresConfig, tile: int) -> bool:
    """Whether shrinking to the model's number of tiles and to vLLM's is the same for every image."""
    largest = max((width // tile) * (height // tile) for width, height in anyres.pinpoints)
    limit = largest if anyres.max_tiles is None else anyres.max_tiles
    return limit == VLLM_TILES or largest <= SLACK**2 * min(limit, VLLM_TILES)
