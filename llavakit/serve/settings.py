"""What a server allows: the one typed place for its limits. Sizes are bytes, times seconds."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator

from llavakit.core.config import Config
from llavakit.serve.call_forms import FormName

MIB = 2**20


class ServeConfig(Config):
    """Every bound is per request unless it says otherwise. API keys never show in a dump, a log or an error."""

    model_name: str = "llavakit"
    api_keys: tuple[
        Annotated[SecretStr, Field(min_length=1)], ...
    ] = ()  # none: whoever reaches the port may ask
    media_root: Path | None = None  # file:// is refused without it
    reload_root: Path | None = None  # new weights are loaded from below it, by whoever asks (docs/rl.md)
    allow_http: bool = False  # fetch pictures over http:// too
    fetch_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (80, 443)
    refuse_networks: tuple[
        IPvAnyNetwork, ...
    ] = ()  # public, and yet not to be fetched from (one's own router)
    allow_origins: tuple[str, ...] = ()  # of web pages whose scripts may ask ("https://a.example", or "*")
    host_names: tuple[str, ...] = ()  # what clients on this machine may call it besides localhost

    calls: FormName = "hermes"  # how the model writes calls of tools (docs/serve.md)
    max_requests: int = Field(
        default=256, ge=1
    )  # at once on the whole server, waiting ones included, bodies still on their way not; then 429
    memory_gb: float | None = Field(default=None, gt=0)  # of the whole process, model included (budget.py)
    upload_seconds: float = Field(default=20, gt=0)  # for a body, and then as long as this rate allows it
    min_upload_rate: int = Field(default=16 * 1024, ge=1)  # bytes a second
    request_seconds: float = Field(default=600, gt=0)  # from the first byte to the last, waiting included
    max_body_bytes: int = Field(default=64 * MIB, ge=1)
    max_json_values: int = Field(default=20_000, ge=1)  # in a body: lists, objects, and what stands in them
    max_messages: int = Field(default=1000, ge=1)
    max_text_chars: int = Field(
        default=2_000_000, ge=1
    )  # of all messages; the model's context is far smaller
    max_schema_bytes: int = Field(default=64 * 1024, ge=1)  # of a response_format, and of all tools
    max_tokens: int = Field(
        default=4096, ge=1
    )  # the most a request may ask for, and what it gets if it names none
    max_choices: int = Field(default=16, ge=1)

    max_images: int = Field(default=64, ge=0)
    max_videos: int = Field(default=4, ge=0)
    max_image_bytes: int = Field(default=20 * MIB, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    max_video_bytes: int = Field(default=200 * MIB, ge=1)
    max_video_frames: int = Field(default=100_000, ge=1)  # all of a video's: one key frame may stand for many
    max_media_bytes: int = Field(default=256 * MIB, ge=1)  # all pictures and videos together
    max_media_pixels: int = Field(
        default=400_000_000, ge=1
    )  # to be decoded for all of them: of videos, the frames that are looked at
    decode_seconds: float = Field(default=20, gt=0)  # one picture or video, in its process
    fetch_seconds: float = Field(default=15, gt=0)  # one picture or video, redirects included
    max_redirects: int = Field(default=3, ge=0)

    fetch_threads: int = Field(default=16, ge=1)
    prepare_threads: int = Field(default=4, ge=1)
    decode_processes: int = Field(default=2, ge=1)
    log_content: bool = False  # prompts and answers in the log

    @field_validator("media_root", "reload_root")
    @classmethod
    def _is_folder(cls, root: Path | None) -> Path | None:
        if root is not None and not root.is_dir():
            raise ValueError("not a folder")
        return root
