"""Tiny models of random weights, in directories that `from_pretrained` opens."""

import json
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


def bert_words(folder: Path) -> hf.BertTokenizer:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{one}" for one in LETTERS),
        "cat",
        "dog",
        "red",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    return hf.BertTokenizer(vocab=str(folder / "vocab.txt"))


def clip_words(folder: Path) -> hf.CLIPTokenizer:
    ends = [f"{one}</w>" for one in LETTERS]
    words = {word: index for index, word in enumerate([*LETTERS, *ends, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return hf.CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=16
    )


def save_owlv2(folder: Path) -> None:
    folder.mkdir()
    tokenizer = clip_words(folder)
    torch.manual_seed(0)
    config = hf.Owlv2Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16,
        },
        projection_dim=32,
    )  # fmt: skip
    hf.Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = hf.Owlv2ImageProcessorPil(size={"height": 64, "width": 64})
    hf.Owlv2Processor(images, tokenizer).save_pretrained(folder)


def save_grounding_dino(folder: Path) -> None:
    folder.mkdir()
    tokenizer = bert_words(folder)
    torch.manual_seed(0)
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    hf.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = hf.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    hf.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


def save_sam2(folder: Path) -> str:
    torch.manual_seed(0)
    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 4], window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
        image_size=[128, 128],
    )  # fmt: skip
    config = hf.Sam2Config(
        vision_config=hf.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        ),
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )  # fmt: skip
    hf.Sam2Model(config).save_pretrained(folder)
    return str(folder)


TEXT = {
    "vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip  # of the text towers of SAM 3 and CLIPSeg


def few_words() -> hf.PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(("<start>", "<end>", "a", "red", "disc", "<unk>"))}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<start>", eos_token="<end>", unk_token="<unk>", pad_token="<end>"
    )


def save_sam3(folder: Path) -> str:
    """As facebook/sam3: one directory for the detector, which knows words, and the tracker, which knows marks."""
    torch.manual_seed(0)
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
            "global_attn_indexes": [1], "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }  # fmt: skip
    part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_layers": 1}
    detector = {
        "model_type": "sam3", "vision_config": vision, "text_config": {**TEXT, "projection_dim": 16},
        "geometry_encoder_config": part, "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "patch_size": 14},
        "mask_decoder_config": {
            "hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
        "image_size": 56,
    }  # fmt: skip
    config = hf.Sam3VideoConfig(detector_config=detector, tracker_config=tracker)
    hf.Sam3VideoModel(config).eval().save_pretrained(folder)
    few_words().save_pretrained(folder)
    return str(folder)


def save_upernet(folder: Path) -> str:
    """As openmmlab/upernet-convnext-tiny, with five kinds of parts."""
    torch.manual_seed(0)
    backbone = hf.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    names = dict(enumerate(("wall", "sky", "tree", "road", "person")))
    config = hf.UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], use_auxiliary_head=False, id2label=names,
        label2id={name: index for index, name in names.items()}, initializer_range=1.0,
    )  # fmt: skip
    hf.UperNetForSemanticSegmentation(config).save_pretrained(folder)
    hf.SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def save_blip(folder: Path) -> None:
    folder.mkdir()
    tokenizer = bert_words(folder)
    torch.manual_seed(0)
    config = hf.BlipConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 2, "eos_token_id": 3,
            "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64, "initializer_range": 1.0,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16, "initializer_range": 1.0,
        },
    )  # fmt: skip
    hf.BlipForConditionalGeneration(config).save_pretrained(folder)
    hf.BlipProcessor(hf.BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(
        folder
    )


def save_blip2(folder: Path) -> None:
    folder.mkdir()
    tokenizer = bert_words(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.Blip2Config(
        vision_config=sizes | {"image_size": 32, "patch_size": 16, "initializer_range": 1.0},
        qformer_config=sizes | {"encoder_hidden_size": 32, "vocab_size": 50, "initializer_range": 1.0},
        text_config={
            "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 32, "ffn_dim": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 32, "bos_token_id": 2,
            "max_position_embeddings": 128, "eos_token_id": 3, "pad_token_id": 0, "init_std": 1.0,
        },
        num_query_tokens=4, image_token_index=len(tokenizer) - 1,
    )  # fmt: skip
    hf.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    images = hf.BlipImageProcessorPil(size={"height": 32, "width": 32})
    hf.Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    """With CLIP's way to cut words, for SigLIP's own needs a SentencePiece model."""
    folder.mkdir()
    tokenizer = clip_words(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.SiglipConfig(
        text_config=sizes | {"vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config=sizes | {"image_size": 32, "patch_size": 16},
    )
    hf.SiglipModel(config).save_pretrained(folder)
    images = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    hf.SiglipProcessor(images, tokenizer).save_pretrained(folder)
