"""Vision towers of the series: what each kind of them is, and the released ones with their dimensions."""

from dataclasses import dataclass
from typing import Any

from llavakit.vision.plan import ImageConfig

Colour = tuple[float, float, float]
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerKind:
    """What all towers of one model_type have in common."""

    mean: Colour  # what pixels are normalised with
    std: Colour
    num_cls: int  # class rows in front of the patches
    frame: str  # how its own processor takes one picture: `square` (the centre is cut out) or `squash`
    pre_norm: bool  # a norm stands between embeddings and layers (`pre_layrnorm`, CLIP's own spelling)
    cut: bool  # released code cuts the last layer and the head off, and takes what then comes last

    @property
    def strategy(self) -> str:
        """The word of `transformers` for what happens to the class row: `default` drops it, `full` keeps all."""
        return "default" if self.num_cls else "full"


TOWER_KINDS = {  # by model_type
    "clip_vision_model": TowerKind(
        ImageConfig().mean, ImageConfig().std, 1, "square", pre_norm=True, cut=False
    ),
    "siglip_vision_model": TowerKind(HALF, HALF, 0, "squash", pre_norm=False, cut=True),
}


@dataclass(frozen=True)
class Vision:
    """A tower as released checkpoints hold it. `path` is where a fresh one comes from."""

    path: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    head: bool | None = None  # SigLIP's pooling head, which no LLaVA uses; CLIP has no such setting
    projection_dim: int | None = None  # of CLIP's common space with texts, which no LLaVA uses either

    @property
    def kind(self) -> TowerKind:
        return TOWER_KINDS[self.model_type]

    def config(self) -> dict[str, Any]:
        """The keyword arguments of the vision config in `transformers`, `model_type` included."""
        values = {key: value for key, value in vars(self).items() if key not in ("path", "head")}
        values |= {"vision_use_head": self.head}
        return {key: value for key, value in values.items() if value is not None}

    def fresh_config(self) -> dict[str, Any]:
        """The same for the tower at `path`, before a release cut off its last layer and head (SigLIP)."""
        if not self.kind.cut:
            return self.config()
        return {**self.config(), "num_hidden_layers": self.num_hidden_layers + 1, "vision_use_head": True}


def _clip(path: str, size: int) -> Vision:
    return Vision(
        path, "clip_vision_model", 1024, 4096, 24, 16, size, 14, "quick_gelu", projection_dim=768
    )  # fmt: skip


CLIP_224 = _clip("openai/clip-vit-large-patch14", 224)
CLIP_336 = _clip("openai/clip-vit-large-patch14-336", 336)
# The hub's tower has 27 layers and a head. Releases deleted the last layer and the head, which leaves the features
# at layer -2 of the 27 as they are: so a fresh tower is read at -2, and a released checkpoint has 26 layers.
SIGLIP = Vision(
    "google/siglip-so400m-patch14-384", "siglip_vision_model", 1152, 4304, 26, 16, 384, 14, "gelu_pytorch_tanh",
    head=False,
)  # fmt: skip
TOWERS = {row.path: row for row in (CLIP_224, CLIP_336, SIGLIP)}  # by hub id
