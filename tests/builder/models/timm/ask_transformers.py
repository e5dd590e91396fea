"""What transformers' TimmWrapper says: top-5 of its pipeline, logits and features, in a process of
its own, since here transformers shall not find timm's torchvision."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge.builder.models import timm_library


def said(folders: dict[str, Path], picture: Path, out: Path) -> dict[str, dict]:
    """name -> {"top": [(label, score)], "logits", "features", "tokens"} for one picture."""
    asked = {name: str(folder) for name, folder in folders.items()}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.builder.models.timm.ask_transformers",
            json.dumps(asked),
            picture,
            out,
        ],
        check=True,
    )
    return dict(np.load(out, allow_pickle=True)["said"].item())


def _answers(folder: str, picture: str) -> dict:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, pipeline

    classify = pipeline("image-classification", model=folder, device="cpu")
    tops = classify(picture, top_k=5)
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.open(picture))["pixel_values"]
    with torch.inference_mode():
        backbone = AutoModel.from_pretrained(folder).eval()(pixels)
        return {
            "top": [(top["label"], top["score"]) for top in tops],
            "logits": classify.model(pixels).logits.numpy(),
            "features": backbone.pooler_output.numpy(),
            "tokens": backbone.last_hidden_state.numpy(),
        }


if __name__ == "__main__":
    sys.path.append(str(timm_library.FOLDER))
    timm_library._declare_operators()
    folders, picture, out = sys.argv[1:]
    found = {name: _answers(folder, picture) for name, folder in json.loads(folders).items()}
    np.savez(out, said=np.array(found, object))
