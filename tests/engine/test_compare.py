import numpy as np
import pytest

from edge.engine import compare
from edge.engine.accuracy import Gate
from edge.engine.heads import Head
from edge.errors import GateError

REFERENCE = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]], np.float32)


def test_equal_outputs_agree_completely():
    measured = compare.compare(REFERENCE, REFERENCE, None)
    assert (measured.images, measured.agreement, measured.max_error) == (4, 100.0, 0.0)
    assert measured.sqnr_db > 900
    assert measured.top1 is None


def test_agreement_sqnr_error_and_top1_by_hand():
    output = REFERENCE.copy()
    output[1] = [1.5, 1.0]  # another top-1
    measured = compare.compare(REFERENCE, output, [0, 0, 0, 1])
    assert measured.agreement == 75.0
    assert measured.max_error == 1.5
    assert measured.sqnr_db == pytest.approx(10 * np.log10(16 / 2.25))
    assert (measured.top1, measured.top1_fp32) == (75.0, 50.0)


def test_the_gate_tests_every_form():
    good, bad = (
        compare.compare(REFERENCE, REFERENCE, None),
        compare.compare(REFERENCE, -REFERENCE, None),
    )
    assert Gate(100, None).refuses({"portable": good}) is None
    why = Gate(99, None).refuses({"portable": good, "device": bad})
    assert why == (
        "the FP16-cast graph for model.plan agrees with FP32 on 0.00 % of 4 images, "
        "the gate is 99 %"
    )


def test_nan_outputs_never_pass():
    with pytest.raises(GateError, match="NaN or infinity"):
        compare.compare(REFERENCE, np.full_like(REFERENCE, np.nan), None)


def test_embeddings_are_near_by_their_cosine_and_not_by_their_length():
    turned = np.array([[4.0, 2.0], [0.0, 1.0], [3.0, 0.6], [1.0, 0.1]], np.float32)
    measured = compare.compare_embeddings(REFERENCE, turned)
    assert measured.agreement == 75.0  # 3, 0.6 is 11 degrees away
    assert measured.cosine == pytest.approx(3 / np.hypot(3, 0.6))
    assert measured.max_error == 2.0
    assert measured.top1 is measured.top1_fp32 is None
    why = Gate(99, None).refuses({"device": measured})
    assert why is not None and "agrees with FP32 (a cosine of 0.99) on 75.00 % of 4" in why
    assert compare.cosines(REFERENCE, np.zeros_like(REFERENCE)).max() == 0
    with pytest.raises(GateError, match="NaN or infinity"):
        compare.compare_embeddings(REFERENCE, np.full_like(REFERENCE, np.inf))


def alone(labels):
    """A head with independent labels."""
    return Head(labels=tuple(f"label {number}" for number in range(labels)), activation="sigmoid")


def refused(reference, found):
    """Why a gate of 99 % refuses the logits of such a head; None: it passes."""
    measured = compare.compare_labels(reference, found, None, alone(reference.shape[1]))
    return Gate(99, None).refuses({"portable": measured})


def test_the_gate_refuses_a_single_label_whose_answers_are_inverted():
    reference = np.random.default_rng(0).normal(3, 2, (100, 1)).astype(np.float32)
    assert refused(reference, reference) is None
    why = refused(reference, -reference)
    assert why is not None and "FP32 (yes or no to each label) on" in why
    no = np.full((100, 1), -4.6, np.float32)  # a hundredth
    assert refused(no, -no) is not None


def test_the_gate_tests_every_label_and_not_only_the_most_probable():
    reference = np.random.default_rng(0).normal(0, 2, (100, 10)).astype(np.float32)
    reference[:, 0] = 9
    negated = -reference
    negated[:, 0] = 20
    measured = compare.compare_labels(reference, negated, [0] * 100, alone(10))
    assert measured.agreement < 1
    assert 10 < measured.labels < 30  # the best, and those that hover
    assert measured.top1 == measured.top1_fp32 == 100
    assert Gate(99, 0).refuses({"portable": measured}) is not None


def test_the_gate_refuses_another_best_label_where_fp32_says_no_to_all():
    """SigLIP says no to all labels of most pictures."""
    reference = np.random.default_rng(0).normal(-8, 1.5, (100, 5)).astype(np.float32)
    assert refused(reference, np.roll(reference, 1, axis=1)) is not None


@pytest.mark.parametrize("centre", [0, -8])
def test_int8_noise_passes_the_gate_where_labels_are_near_50_percent(centre):
    rng = np.random.default_rng(0)
    reference = rng.normal(centre, 1.5, (400, 10)).astype(np.float32)
    noise = rng.normal(0, 0.06, reference.shape).astype(np.float32)  # 28 dB of what varies
    assert refused(reference, reference + noise) is None
    assert (reference.argmax(1) != (reference + noise).argmax(1)).mean() > 0.01
