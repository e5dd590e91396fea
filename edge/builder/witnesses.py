"""The witnesses of an engine: which images they are, and what its own graphs answer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import verify
from edge.builder.candidates import Candidate
from edge.builder.report.outcome import Outcome
from edge.engine.compare import accuracy_of, agreeing, cosines
from edge.engine.heads import FEATURES, Head
from edge.engine.passport import Witnessed
from edge.engine.witnesses import LARGEST, Witnesses, network_images, witness
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import load_image
from edge.preprocess.spec import Preprocess

__all__ = ["choose", "collect", "synthetic"]

MOST = 64

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]


def collect(
    outcome: Outcome, carried: Sequence[Candidate], spec: Preprocess, head: Head, *, private: bool
) -> tuple[Witnesses, Witnessed]:
    """The witnesses of an engine with these candidates, and the passport's entry for them.

    private: make synthetic images instead of taking held-out ones.
    """
    most = max(1, min(MOST, LARGEST // (spec.height * spec.width)))
    if private:
        images = synthetic(spec, most)
        reference, outputs = _run(outcome.model, carried, spec, images)
        origin = "synthetic images (--no-witnesses)"
    else:
        held = outcome.evaluator
        order = choose(held.reference, [one.outputs for one in carried], head, most)
        found = [
            (at, witness(spec, load_image(held.readable[at], opaque=spec.opaque))) for at in order
        ]
        images = [image for _, image in found if image is not None]
        places = [at for at, image in found if image is not None]
        reference = held.reference[places]
        outputs = {
            one.precision: {form: part[places] for form, part in one.outputs.items()}
            for one in carried
        }
        origin = f"{len(images)} of {len(held.readable)} held-out images"
    accuracy = {
        precision: {form: accuracy_of(reference, part, head) for form, part in forms.items()}
        for precision, forms in outputs.items()
    }
    return Witnesses(images, reference), Witnessed(len(images), origin, accuracy)


def choose(
    reference: Tensor, others: Sequence[Mapping[str, Tensor]], head: Head, most: int
) -> list[int]:
    """The positions of up to `most` images, sorted: half of them telling, half drawn at random.

    Telling are first those on which a candidate disagrees with FP32, and then those of which FP32
    is least sure: a wrong plan shows on these first. For embeddings they are those with the lowest
    cosine.

    reference: FP32's outputs, float32 [N, outputs]; others: of each candidate, by form.
    """
    parts = [part for forms in others for part in forms.values()]
    agree = np.ones(len(reference), bool)
    for part in parts:
        agree &= agreeing(reference, part, head)
    sure = _sureness(reference, parts, head)
    telling = np.lexsort((sure, agree))[: max(1, most // 2)].tolist()
    rest = sorted(set(range(len(reference))).difference(telling))
    drawn = np.random.default_rng(0).permutation(rest)[: most - len(telling)]
    return sorted([*telling, *drawn.tolist()])


def _sureness(reference: Tensor, parts: Sequence[Tensor], head: Head) -> npt.NDArray[np.float64]:
    """How sure each image's answer is, float64 [N]: the lower, the more telling is the image."""
    if head.task == FEATURES:
        nearness = [cosines(reference, part) for part in parts]
        return np.min(nearness, axis=0) if nearness else np.zeros(len(reference))
    probabilities = head.probabilities(reference).astype(np.float64)
    if head.activation == "sigmoid":
        return np.asarray(abs(probabilities - 0.5).min(1))
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(best[:, -1] - best[:, 0])


def synthetic(spec: Preprocess, count: int) -> list[Pixels]:
    """Images that show nothing: RGB uint8 of the network's size, always the same ones.

    In turn: noise of each size of grain from a pixel to the whole image, a gradient, a chequered
    pattern. Coarse noise has the spectrum of photos, which are mostly smooth.
    """
    from PIL import Image

    generator = np.random.default_rng(0)
    height, width = spec.height, spec.width
    down, across = np.mgrid[:height, :width].astype(np.float32)
    images: list[Pixels] = []
    for number in range(count):
        low, high = generator.integers(0, 256, (2, 3))
        kind = number % 4
        if kind < 2:
            grain = 2 ** (number // 4 % max(1, min(height, width).bit_length() - 1))
            size = (-(-height // grain), -(-width // grain), 3)
            noise = Image.fromarray(generator.integers(0, 256, size, np.uint8))
            image = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        else:
            angle = generator.uniform(0, 2 * np.pi)
            slope = np.cos(angle) * across / width + np.sin(angle) * down / height
            if kind == 3:
                slope = np.floor(slope * generator.integers(4, 33)) % 2
            share = (slope - slope.min()) / max(float(np.ptp(slope)), 1e-6)
            image = np.rint(low + (high - low) * share[..., None]).astype(np.uint8)
        images.append(np.ascontiguousarray(image))
    return images


def _run(
    model: ModelProto, carried: Sequence[Candidate], spec: Preprocess, images: Sequence[Pixels]
) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """FP32's outputs for images, and those of each candidate, by form."""
    prepare, reference = Preprocessor(network_images(spec)), np.empty(0, np.float32)
    outputs: dict[str, dict[str, Tensor]] = {}
    for one in carried:  # one by one: their sessions are large
        forms = {} if one.precision == "fp32" else dict(one.forms)
        found = verify.outputs({"fp32": model, **forms}, (prepare(image) for image in images))
        reference = found.pop("fp32")
        outputs[one.precision] = found or {"portable": reference}
    return reference, outputs
