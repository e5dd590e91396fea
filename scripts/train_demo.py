"""Fine-tune a ViT image classifier with the Hugging Face Trainer.

Without arguments it reproduces the demo checkpoint from scikit-learn's handwritten digits:

    .venv/bin/python -m scripts.train_demo

With a folder of images, one sub-folder per class, it fine-tunes any ViT checkpoint on your classes:

    .venv/bin/python -m scripts.train_demo --images photos/ \
        --checkpoint google/vit-base-patch16-224 --epochs 5 --lr 5e-5 --out my-vit
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

from edge.builder.split import write as write_split
from edge.preprocess.images import load_image, suffixes
from scripts.demo.digits import HELD_OUT_PHOTO, TRAIN_PHOTO, Digits, photo, render, split

SEED = 20


@dataclass
class DrawnDigits(Dataset):
    """Digits that are drawn again for each access, harder and harder over the first `warmup` draws.

    With warmup 0 each digit always has the same drawing: the held-out set.
    """

    digits: Digits
    scene: np.ndarray
    processor: Any
    warmup: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(SEED)
        self.drawn = 0

    def __len__(self) -> int:
        return len(self.digits.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.drawn += 1
        rng = self.rng if self.warmup else np.random.default_rng([SEED, index])
        difficulty = min(1.0, self.drawn / self.warmup) if self.warmup else 1.0
        image = render(self.digits.ink[index], rng, self.scene, difficulty=difficulty)
        pixels = self.processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": int(self.digits.labels[index])}


@dataclass
class ImageFolder(Dataset):
    """Images of a folder with one sub-folder per class; `train` crops each at random."""

    files: list[tuple[Path, int]]
    processor: Any
    train: bool

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(SEED)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        image = Image.fromarray(load_image(path))
        if self.train:
            scale = self.rng.uniform(0.75, 1.0)
            width, height = (max(1, int(side * scale)) for side in image.size)
            left = int(self.rng.integers(image.width - width + 1))
            top = int(self.rng.integers(image.height - height + 1))
            image = image.crop((left, top, left + width, top + height))
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": label}


def list_images(root: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Files with their class index, and the class names: the sorted names of the sub-folders.

    Exits with a message if there are fewer than two folders or ten images."""
    if not root.is_dir():
        raise SystemExit(f"error: there is no folder {root}; give one with a folder per class")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in suffixes()
    ]
    if len(names) < 2 or len(files) < 10:
        loose = sum(path.suffix.lower() in suffixes() for path in root.iterdir())
        beside = f" ({loose} more are in no folder)" if loose else ""
        raise SystemExit(
            f"error: {root} has {len(names)} folders with {len(files)} images in them{beside}; "
            f"make a folder for each class, such as {root}/cat and {root}/dog, with at least "
            "10 images in total"
        )
    return files, names


def demo_model() -> tuple[ViTForImageClassification, ViTImageProcessorPil]:
    """A small untrained ViT: 64x64 images, 65 tokens, 1.6 M parameters."""
    config = ViTConfig(
        image_size=64,
        patch_size=8,
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=10,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
    )
    processor = ViTImageProcessorPil(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return ViTForImageClassification(config), processor


def pretrained(checkpoint: str, names: list[str]) -> tuple[Any, Any]:
    """An image classification checkpoint with an untrained head for these classes."""
    model = AutoModelForImageClassification.from_pretrained(
        checkpoint,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,  # this script saves half precision, and training in it diverges
        use_safetensors=True,
    )
    return model, AutoImageProcessor.from_pretrained(checkpoint)


def top1(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder with one sub-folder per class")
    parser.add_argument("--checkpoint", help="checkpoint to fine-tune (with --images)")
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, help="folder to write; needed with --images")
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.checkpoint is None):
        parser.error("--images and --checkpoint go together")
    if arguments.images and not arguments.out:
        parser.error("--images needs --out: the demo's checkpoint is not overwritten")
    arguments.out = arguments.out or Path(__file__).parent / "demo/vit"

    set_seed(SEED)
    train: DrawnDigits | ImageFolder
    held: DrawnDigits | ImageFolder
    if arguments.images:
        files, names = list_images(arguments.images)
        model, processor = pretrained(arguments.checkpoint, names)
        order = np.random.default_rng(SEED).permutation(len(files))
        cut = max(1, len(files) // 5)
        train = ImageFolder([files[i] for i in order[cut:]], processor, train=True)
        held = ImageFolder([files[i] for i in order[:cut]], processor, train=False)
    else:
        model, processor = demo_model()
        train_digits, held_digits = split()
        warmup = len(train_digits.labels) * arguments.epochs * 3 // 10
        train = DrawnDigits(train_digits, photo(TRAIN_PHOTO), processor, warmup)
        held = DrawnDigits(held_digits, photo(HELD_OUT_PHOTO), processor)

    steps = arguments.epochs * -(-len(train) // arguments.batch)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.lr, total_steps=steps, pct_start=0.15
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch,
                per_device_eval_batch_size=256,
                save_strategy="no",
                logging_strategy="epoch",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
                seed=SEED,
            ),
            train_dataset=train,
            eval_dataset=held,
            compute_metrics=top1,
            optimizers=(optimizer, schedule),
        )
        trainer.train()
        print(trainer.evaluate())
    # Half precision halves the file; edge and this script load it as float32.
    model.half().save_pretrained(arguments.out)
    processor.save_pretrained(arguments.out)
    if isinstance(train, ImageFolder) and isinstance(held, ImageFolder):
        # A build must not evaluate on images that trained.
        parts = [[path for path, _ in part.files] for part in (train, held)]
        write_split(arguments.out, arguments.images, *parts)
    print(f"saved {arguments.out}")


if __name__ == "__main__":
    main()
