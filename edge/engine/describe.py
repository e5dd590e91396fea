"""The text of `edge inspect`, and the summary line of `edge run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.engine.accuracy import FORMS, Accuracy, percent
from edge.engine.passport import Passport, PlanAccuracy
from edge.errors import printable

__all__ = ["describe"]


def describe(folder: Path, passport: Passport, proved: Sequence[tuple[str, str]] = ()) -> str:
    """The text of `edge inspect`, one fact per line. proved: (name, text) of further findings."""
    spec, plan = passport.preprocess, passport.plan
    lines = [
        ("engine", f"{folder} ({passport.precision})"),
        ("checkpoint", f"{passport.checkpoint.name} ({passport.checkpoint.architecture})"),
        ("input", f"{'BGR' if spec.bgr else 'RGB'} [N, 3, {spec.height}, {spec.width}] float32"),
        ("preprocess", str(spec)),
        ("task", passport.head.task),
        ("output", _output(passport)),
    ]
    if passport.calibration:
        calibration = passport.calibration
        lines.append(("calibration", f"{calibration.images} images, {calibration.method}"))
    for form, measured in passport.accuracy.items():
        lines.append(("accuracy", f"{FORMS[form]} {_measured(measured)}"))
    if timing := passport.timing:
        lines.append(("timed on", f"{timing.machine}; {timing.rounds} rounds"))
    if passport.heldout:
        lines.append(("evaluated on", passport.heldout))
    if witnesses := passport.witnesses:
        lines.append(("witnesses", f"{witnesses.images}: {witnesses.origin}"))
    if passport.verdict:
        lines.append(("verdict", passport.verdict))
    if passport.kept_fp16:
        lines.append(("Linears in FP16", ", ".join(passport.kept_fp16)))
    for precision, carried in passport.candidates.items():
        speed = "" if carried.ms is None else f"; {carried.ms:.1f} ms on the build machine"
        lines.append((f"candidate {precision}", f"{carried.graph}{speed}"))
    gate = "not applied (--no-gate): the engine is unjudged"
    if passport.judged:
        gate = f"passed: {passport.gate}" if passport.gate else "passed"
    lines.append(("gate", gate))
    if plan:
        batches = _batches(plan.max_batch)
        lines.append(("plan", f"{plan.backend} {plan.version}, batch {batches}, {plan.gpus}"))
        if plan.why:
            lines.append(("", plan.why))
        lines += _plan_accuracy(passport.plan_accuracy)
    else:
        lines.append(("plan", f"none; compile one on the board: edge compile {folder}"))
    lines += proved
    for name, file in passport.files.items():
        lines.append((name, f"{file.bytes / 1e6:.1f} MB, checksum OK"))
    lines.append(("built with", ", ".join(f"{k} {v}" for k, v in passport.tools.items())))
    return "\n".join(f"{printable(key):<18} {printable(value)}" for key, value in lines)


def _plan_accuracy(judged: PlanAccuracy | None) -> list[tuple[str, str]]:
    if judged is None:
        return [("plan_accuracy", "never judged: edge check ENGINE, on the machine with the GPU")]
    sizes = ", ".join(map(str, judged.batches))
    fix = f"; compiled {judged.fix}" if judged.fix else ""
    text = f"{judged}, in batches of {sizes}, {judged.runs} runs{fix}"
    return [("plan_accuracy", text), *(("refused before", why) for why in judged.refused)]


def _output(passport: Passport) -> str:
    head, labels = passport.head, passport.head.labels
    if not labels:
        length = ", length 1" if head.normalised else ""
        return f"embedding [N, {passport.outputs}] float32, pooling {head.pooling}{length}"
    more = ", ..." if len(labels) > 8 else ""
    prompts = f", prompts: {' | '.join(head.templates)}" if head.templates else ""
    return f"{len(labels)} classes, {head.activation}: {', '.join(labels[:8])}{more}{prompts}"


def _batches(largest: int) -> str:
    return "1" if largest == 1 else f"1 to {largest}"


def _measured(accuracy: Accuracy) -> str:
    text = (
        f"agrees with FP32 on {accuracy.agreement_text}, "
        + (f"SQNR {accuracy.sqnr_db:.1f} dB, " if accuracy.max_error else "")
        + f"max error {accuracy.max_error:.3g}"
    )
    if accuracy.cosine is not None:
        text += f"; lowest cosine {accuracy.cosine:.5f}"
    if accuracy.labels is not None:
        text += f"; same yes or no for {percent(accuracy.labels)} of labels"
    if accuracy.top1 is not None:
        text += f"; top-1 {accuracy.top1:.2f} % (FP32 {accuracy.top1_fp32:.2f} %)"
    return text


def summary(measured: dict[str, Any]) -> str:
    """The last line of `edge run`, from the summary that it also writes as JSON."""
    age, latency = measured["age_ms"], measured["latency_ms"]
    stale, reconnects = measured["stale"], measured["reconnects"]
    more = f"{stale} stale, " if stale else ""
    if reconnects:
        more += "1 reconnect, " if reconnects == 1 else f"{reconnects} reconnects, "
    frames = "1 frame" if measured["frames"] == 1 else f"{measured['frames']} frames"
    return (
        f"{frames}, {measured['dropped']} dropped, {more}"
        f"{measured['fps']:.1f} fps; "
        f"latency p50 {_ms(latency['p50'])} p99 {_ms(latency['p99'])}, "
        f"age p50 {_ms(age['p50'])} p99 {_ms(age['p99'])}; {measured['backend']}"
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
