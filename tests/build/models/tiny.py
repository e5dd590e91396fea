"""Tiny CLIP and SigLIP checkpoints with random weights, saved as the hub has them."""

import io
from pathlib import Path

LABELS = ("a cat", "a dog", "an owl")
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}


def save_clip(folder: Path) -> Path:
    """A CLIP whose tokenizer knows single letters only."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: at for at, word in enumerate(words)}, [])
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = {**TEXT, **ends, "vocab_size": len(words), "pad_token_id": len(words) - 1}
    torch.manual_seed(1)
    shared = {"projection_dim": 48}
    config = CLIPConfig(text_config=text | shared, vision_config=VISION | shared, **shared)
    spread(CLIPModel(config)).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SigLIP with a sentencepiece model, as google's are."""
    import sentencepiece
    from transformers import SiglipTokenizer

    sentence = "this is a photo of a cat a dog an owl a bird in the snow"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence] * 50),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=1,
        unk_id=0,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = SiglipTokenizer(
        str(folder / "spiece.model"), model_max_length=64, model_input_names=["input_ids"]
    )
    tokenizer.save_pretrained(folder)
    return _save_siglip(folder)


def save_siglip2(folder: Path) -> Path:
    """A SigLIP 2 of fixed resolution: a SigLIP with Gemma's tokenizer."""
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz.T"]
    GemmaTokenizer({word: at for at, word in enumerate(words)}, []).save_pretrained(folder)
    return _save_siglip(folder)


def _save_siglip(folder: Path) -> Path:
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(1)
    text = {**TEXT, "vocab_size": 64, "max_position_embeddings": 64, "projection_size": 64}
    text |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 1}
    network = spread(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)))
    torch.nn.init.constant_(network.logit_scale, 2.0)
    torch.nn.init.constant_(network.logit_bias, -1.0)
    network.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def spread(model: object) -> object:
    """The model with weights so large that its pictures, and its labels, differ."""
    import torch

    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 or name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return model


def save_backbone(folder: Path, family: str, **changes: object) -> Path:
    """A backbone without a head, as transformers' class of that name saves it."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**VISION, **changes})
    kind = "ViTMAEForPreTraining" if family == "ViTMAE" else f"{family}Model"
    spread(getattr(transformers, kind)(config)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)
    return folder
