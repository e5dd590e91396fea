"""Tiny tokenizers for the tests, saved as on the Hub beside a CLIP or a SigLIP.

Their types are those of the published ones. A label becomes many tokens, and the model knows each.
"""

from __future__ import annotations

import io
from pathlib import Path

__all__ = ["CLIP_WORDS", "SAVERS"]

CLIP_WORDS = 514  # its vocabulary: each byte within and at the end of a word, and two marks


def clip(folder: Path) -> None:
    """A CLIP tokenizer that knows single letters only."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: at for at, word in enumerate(words)}, [])
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)


def siglip(folder: Path) -> None:
    """A SigLIP tokenizer: a sentencepiece model, like the published ones."""
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
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = SiglipTokenizer(
        str(folder / "spiece.model"), model_max_length=64, model_input_names=["input_ids"]
    )
    tokenizer.save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """A SigLIP 2 tokenizer: Gemma's, with letters only."""
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz.T"]
    GemmaTokenizer({word: at for at, word in enumerate(words)}, []).save_pretrained(folder)


SAVERS = {"clip": clip, "siglip": siglip, "siglip 2": siglip2}
