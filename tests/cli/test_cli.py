"""The command as people type it: real processes, real files, exit codes, one line per error."""

import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from edge.builder.precision.calibrate import METHODS
from edge.builder.precision.dtypes import NUMBERS
from edge.builder.recipes import PRECISIONS
from edge.engine import backends, choices
from edge.gpu import nvidia

EDGE = Path(sys.executable).with_name("edge")


def fails(done, *named, code=1):
    """It ended with one line that says what is wrong and what to do, and no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "; " in lines[0]
    assert "Traceback" not in done.stderr
    for word in named:
        assert word in lines[0]


def test_help_lists_every_command(edge_command):
    done = edge_command("--help")
    assert done.returncode == 0
    for command in (
        *("build", "export", "simplify", "calibrate", "quantize", "compile"),
        *("run", "preprocess", "classify", "inspect", "bench", "doctor"),
    ):
        assert command in done.stdout


def test_the_choices_are_what_there_is():
    assert get_args(choices.PrecisionChoice) == PRECISIONS
    assert {*get_args(choices.Precision)} == {"fp32", "fp16", *NUMBERS}
    assert {*get_args(choices.Method)} == {*METHODS}
    assert get_args(choices.PlanBackend) == nvidia.BACKENDS
    assert get_args(choices.Backend) == ("auto", *backends.BACKENDS)


def test_a_choice_that_there_is_not_is_named_with_those_there_are(edge_command):
    done = edge_command("run", "engine", "--backend", "vulkan")
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2
    for word in ("'vulkan'", "onnxruntime", "tensorrt-rtx"):
        assert word in said


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--precision", "int4", "'--precision': 'int4' is not one of 'fp32', 'fp16', 'int8'"),
        ("--image-size", "big", "'--image-size': should be a valid integer"),
        ("--image-size", "0", "'--image-size': should be greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_told_in_words_of_this_command(edge_command, option, value, told):
    done = edge_command("build", "vit", option, value)
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert told in said and "Value error" not in said and "parse" not in said


def test_version(edge_command):
    assert edge_command("--version").stdout == "vit-edge 0.2.0\n"


@pytest.mark.parametrize("words", [["frob"], ["build", "--precision", "int4"], ["run", "engine"]])
def test_wrong_usage_is_exit_code_2(edge_command, words):
    assert edge_command(*words).returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "ENGINE", "film.mp4"], "write --source before a source"),
        (["run", "ENGINE", "--source", "0"], "for a USB camera write /dev/video0"),
        (["build", "CHECKPOINT/model.safetensor"], "did you mean CHECKPOINT?"),
        (["bench", "recipe.toml"], "recipe.toml is a recipe, not an engine: it is left out"),
        (["run", "ENGINE", "--source", "test://ball", "--backend", "ONNX"], "'onnxruntime'"),
    ],
)
def test_what_people_type_almost_right(
    edge_command, built_engine, checkpoint, pictures, tmp_path, words, said
):
    (tmp_path / "recipe.toml").touch()
    names = {"ENGINE": str(built_engine), "CHECKPOINT": str(checkpoint)}
    for name, path in names.items():
        words, said = [word.replace(name, path) for word in words], said.replace(name, path)
    if words[0] == "build":
        words += ["--calibration", pictures]
    done = edge_command(*words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_choices_may_be_in_capitals(edge_command, built_engine):
    words = ["run", built_engine, "--source", "test://ball", "--frames", "1"]
    done = edge_command(*words, "--backend", "ONNXRuntime", "--format", "TEXT")
    assert done.returncode == 0, done.stderr


def test_build_inspect_classify(edge_command, checkpoint, pictures, tmp_path):
    words = ["build", checkpoint, "--calibration", pictures, "--engines", tmp_path, "--name", "a"]
    built = edge_command(*words, "--min-agreement", "50")
    assert built.returncode == 0, built.stderr
    assert built.stdout.strip() == str(tmp_path / "a")
    again = edge_command(*words, "--min-agreement", "50")
    assert "is up to date" in again.stderr

    shown = edge_command("inspect", tmp_path / "a")
    assert "ViTForImageClassification" in shown.stdout
    assert "32 images, auto" in shown.stdout
    for form in ("model.onnx", "the FP16-cast graph for model.plan"):
        assert f" {form} agrees with FP32 on " in shown.stdout
    passport = json.loads(edge_command("inspect", "--json", tmp_path / "a").stdout)
    assert passport["precision"] == "int8"

    images = sorted(pictures.rglob("*.png"))[:2]
    classified = edge_command(
        "classify", tmp_path / "a", *images, "--top", "2", "--backend", "onnxruntime"
    )
    rows = [json.loads(line) for line in classified.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in images]
    assert all(len(row["top"]) == 2 for row in rows)
    assert set(rows[0]["top"][0]) == {"label", "class_id", "confidence"}


def test_preprocess_writes_what_transformers_makes(
    edge_command, built_engine, checkpoint, pictures, tmp_path
):
    image, out = sorted(pictures.rglob("*.png"))[0], tmp_path / "x.npy"
    done = edge_command("preprocess", built_engine, image, "--out", out)
    assert (done.returncode, done.stdout) == (0, "")
    config = json.loads((Path(checkpoint) / "preprocessor_config.json").read_text())
    config.pop("image_processor_type")
    processor = ViTImageProcessorPil(**config)
    expected = processor(Image.open(image).convert("RGB"), return_tensors="np")["pixel_values"][0]
    assert np.load(out).tobytes() == expected.tobytes()

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    fails(edge_command("preprocess", built_engine, bad, "--out", out), "bad.png is not an image")
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    fails(edge_command("preprocess", built_engine, image, "--out", folder), "is a folder")
    copied = shutil.copy(image, tmp_path / "a.png")
    fails(edge_command("preprocess", built_engine, copied, "--out", copied), "a.npy")
    assert Path(copied).read_bytes() == image.read_bytes()  # the picture is not written over
    fails(edge_command("preprocess", tmp_path, image, "--out", out), "is not an engine")
    assert np.load(out).tobytes() == expected.tobytes()  # what was there stays whole


def test_a_device_without_onnx_is_told_what_is_not_proved(built_engine):
    code = (
        "import sys; sys.modules['onnx'] = None; from edge.__main__ import main; "
        f"sys.argv = ['edge', 'inspect', {str(built_engine)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (fact,) = [line for line in done.stdout.splitlines() if line.startswith("placement")]
    assert "not proved: onnx cannot be imported" in fact and "[device]" in fact


def test_classify_goes_on_after_a_bad_picture(edge_command, built_engine, pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    good = sorted(pictures.rglob("*.png"))[0]
    done = edge_command("classify", built_engine, bad, good, "--backend", "onnxruntime")
    fails(done, "bad.png is not an image")
    assert len(done.stdout.splitlines()) == 1


def test_an_unjudged_engine_is_called_so_by_every_command(edge_command, checkpoint, pictures, warm):
    folder = warm / "b"
    words = ["build", checkpoint, "--calibration", pictures, "--engines", warm]
    picture = sorted(pictures.rglob("*.png"))[0]
    for command in (
        [*words, "--name", "b", "--no-gate"],
        [*words, "--name", "b", "--no-gate"],
        ["inspect", folder],
        ["classify", folder, picture, "--backend", "onnxruntime"],
        ["bench", folder, "--rounds", 1, "--backend", "onnxruntime"],
        ["run", folder, "--source", "test://ball", "--frames", 2, "--backend", "onnxruntime"],
    ):
        done = edge_command(*command)
        assert done.returncode == 0, done.stderr
        assert "its accuracy was not evaluated" in done.stderr


def table(warm, useless):
    """The range table of the tiny checkpoint, with which so many activations are all zeros."""
    (found,) = (warm / ".cache").glob("ranges-*.json")
    data = json.loads(found.read_text())
    for known in list(data["ranges"].values())[:useless]:
        known["amax"] = 1e6
    changed = warm / "ranges.json"
    changed.write_text(json.dumps(data))
    return changed


def test_the_gate_sends_the_worst_linears_back_to_fp16(edge_command, checkpoint, pictures, warm):
    words = ["build", checkpoint, "--calibration", pictures, "--engines", warm, "--name", "c"]
    done = edge_command(*words, "--ranges", table(warm, 2), "--min-agreement", "100")
    assert done.returncode == 0, done.stderr
    passport = json.loads((warm / "c/passport.json").read_text())
    assert 1 <= len(passport["kept_fp16"]) <= 2
    assert passport["accuracy"]["portable"]["agreement"] == 100
    assert "8 Linears kept FP16" in passport["verdict"]
    assert passport["verdict"] in edge_command("inspect", warm / "c").stdout


def test_the_gate_ends_a_build_and_publishes_nothing(edge_command, checkpoint, pictures, warm):
    """A range table that makes every Linear useless: no number of them can be kept INT8."""
    words = ["build", checkpoint, "--calibration", pictures, "--engines", warm, "--name", "c"]
    done = edge_command(*words, "--ranges", table(warm, 8), "--min-agreement", "100")
    fails(done, "the gate is 100 %", "; at best, 1 of 8 Linears kept FP16: agreement ", "--no-gate")
    assert not (warm / "c").exists()


def test_every_stage_is_a_command(edge_command, checkpoint, pictures, warm, tmp_path):
    def stage(*words):
        done = edge_command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    stage("export", checkpoint, "--images", pictures, "--out", "a.onnx")
    stage("simplify", "a.onnx", "--images", pictures, "--out", "b.onnx")
    stage("calibrate", "b.onnx", "--images", pictures, "--out", "r.json", "--method", "entropy")
    stage("quantize", "b.onnx", "--ranges", "r.json", "--out", "int8.onnx")
    stage("quantize", "b.onnx", "--precision", "fp16", "--out", "fp16.onnx")
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.onnx")}
    assert sizes["int8"] < sizes["fp16"] < sizes["b"]
    fails(edge_command("quantize", "b.onnx", "--out", "x", cwd=tmp_path), "edge calibrate")
    # The table is of the very graph that a build makes.
    words = ["build", checkpoint, "--calibration", pictures, "--engines", warm, "--no-gate"]
    stage(*words, "--ranges", "r.json")


def test_bad_inputs_are_named(edge_command, checkpoint, pictures, built_engine, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes((built_engine / "model.onnx").read_bytes()[:1000])
    build = ["build", checkpoint, "--engines", tmp_path / "engines", "--calibration"]
    fails(edge_command("build", "./absent", "--calibration", pictures), "no checkpoint at ./absent")
    fails(edge_command(*build, empty), "empty has no images")
    fails(edge_command(*build, tmp_path / "none"), "none")
    fails(edge_command("simplify", cut, "--images", pictures, "--out", "x"), "cut.onnx")
    fails(edge_command("inspect", empty), "is not an engine")
    fails(edge_command("compile", tmp_path / "none"), "there is no engine")
    source = ["run", built_engine, "--backend", "onnxruntime", "--source"]
    fails(edge_command(*source, "ftp://a"), "ftp")
    fails(edge_command(*source, "file:///none.mp4"), "/none.mp4")
    done = edge_command(*source, "rtsp://127.0.0.1:9/x")
    fails(done, "127.0.0.1")
    assert " fps; latency" not in done.stderr, "it never ran: there is no summary"


def test_an_engine_cut_off_in_a_copy_is_named(edge_command, built_engine, pictures, tmp_path):
    picture = sorted(pictures.rglob("*.png"))[0]
    for name in ("model.onnx", "passport.json"):
        folder = shutil.copytree(built_engine, tmp_path / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
        fails(edge_command("classify", folder, picture, "--backend", "onnxruntime"), "is damaged")
    if (built_engine / "model.plan").exists():
        folder = shutil.copytree(built_engine, tmp_path / "plan")
        (folder / "model.plan").write_bytes(b"cut")
        fails(edge_command("inspect", folder), "model.plan is damaged")


def test_an_engines_folder_that_cannot_be_written(edge_command, checkpoint, pictures):
    # Nobody, not even root, makes a folder in /sys.
    words = ["build", checkpoint, "--calibration", pictures, "--engines", "/sys/engines"]
    fails(edge_command(*words), "cannot write /sys/engines", "check its owner")


@pytest.mark.parametrize(
    ("blocks", "precision", "again"),
    [(20, "int8", "ranges-*"), (200, "fp32", "none")],
    ids=["in the middle of its cache", "in the middle of its engine"],
)
def test_a_full_disk_publishes_nothing(checkpoint, pictures, warm, blocks, precision, again):
    # `ulimit -f` fails a write beyond so many KB, in the middle of a file, as a full disk does.
    for made in (warm / ".cache").glob(again):
        made.unlink()
    command = (
        f"ulimit -f {blocks}; exec {EDGE} build {checkpoint} --calibration {pictures} "
        f"--engines {warm} --name a --no-gate --precision {precision}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    fails(done, "cannot write", "free some space")
    assert [path.name for path in warm.iterdir()] == [".cache"]
    assert not list((warm / ".cache").glob(".*"))
    assert not list((warm / ".cache").glob(again))


@pytest.mark.parametrize(
    ("delay", "number"),
    [
        (0.6, signal.SIGTERM),
        pytest.param(2.0, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(4.0, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(6.0, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_stopped_at_any_time_leaves_nothing_behind(checkpoint, pictures, tmp_path, delay, number):
    process = subprocess.Popen(
        [
            EDGE,
            "build",
            checkpoint,
            "--calibration",
            pictures,
            "--engines",
            tmp_path,
            "--name",
            "a",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    # 0: it was quicker; the signal's own: all was done, and Python was about to exit.
    assert process.returncode in (0, 1, 130, -number), stderr
    assert "Traceback" not in stderr, stderr
    left = [path.name for path in tmp_path.iterdir() if path.name != ".cache"]
    assert left in ([], ["a"])
    assert not list(tmp_path.glob(".cache/.*"))
    assert (process.returncode == 130) == ("stopped; no incomplete" in stderr)
    assert process.returncode != 1 or "the gate" in stderr


def test_run_stops_on_ctrl_c_with_a_summary(built_engine, tmp_path):
    summary = tmp_path / "summary.json"
    process = subprocess.Popen(
        [
            *(EDGE, "run", built_engine, "--source", "test://ball"),
            *("--backend", "onnxruntime", "--summary", summary),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = [json.loads(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert "frames" in stderr and "fps" in stderr
    assert "test://ball: 640x480" in stderr and "in system memory" in stderr
    assert set(first[0]) == {"source", "frame", "pts", "time", "top", "age_ms", "latency_ms"}
    seen = datetime.fromisoformat(first[0]["time"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - seen).total_seconds() < 60
    measured = json.loads(summary.read_text())
    assert measured["frames"] >= 5
    assert measured["backend"] == "onnxruntime"
    for key in ("dropped", "reconnects", "fps", "age_ms", "latency_ms", "stages_ms", "frame_path"):
        assert key in measured


def test_run_stops_when_nobody_reads(built_engine):
    command = f"{EDGE} run {built_engine} --source test://ball --backend onnxruntime | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr


def test_outputs_are_checked_before_the_work(
    edge_command, checkpoint, pictures, built_engine, tmp_path
):
    source = ["run", built_engine, "--backend", "onnxruntime", "--source", "test://ball"]
    absent = tmp_path / "absent/file"
    for words in (
        [*source, "--summary", absent],
        [*source, "--preview", f"{absent}.png"],
        [*source, "--record", f"{absent}.mkv"],
        [*source, "--record", "/proc/x/y.mkv"],
    ):
        done = edge_command(*words, timeout=20)
        fails(done, "mkdir -p")
        assert done.stdout == ""
    started = ["export", checkpoint, "--images", pictures, "--out", absent]
    fails(edge_command(*started), "mkdir -p")


@pytest.mark.parametrize(
    "words",
    [["classify", "PICTURE"], ["run", "--source", "test://ball", "--frames", "3"], ["inspect"]],
)
def test_a_full_disk_behind_stdout_is_one_line(built_engine, pictures, words):
    picture = sorted(pictures.rglob("*.png"))[0]
    rest = [str(picture) if word == "PICTURE" else word for word in words[1:]]
    command = [EDGE, words[0], built_engine, *rest]
    command += ["--backend", "onnxruntime"] if rest else []
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    fails(done, "No space left on device")


def test_a_closed_stdout_is_no_traceback(built_engine):
    command = f"{EDGE} inspect {built_engine} >&-; {EDGE} --version >/dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_a_path_that_is_too_long_is_named(edge_command):
    fails(edge_command("inspect", "x" * 300), "File name too long")


def test_a_summary_is_written_when_a_source_fails(edge_command, built_engine, tmp_path):
    broken = "gst:videotestsrc num-buffers=9 ! identity error-after=6 ! videoconvert"
    words = ["run", built_engine, "--backend", "onnxruntime", "--source", broken]
    done = edge_command(*words, "--summary", tmp_path / "summary.json")
    fails(done)
    assert json.loads((tmp_path / "summary.json").read_text())["frames"] >= 4


def test_doctor_names_what_is_missing_and_the_mend(edge_command):
    done = edge_command("doctor")
    assert done.returncode == 0
    for name in ("NVIDIA GPU", "onnxruntime", "tensorrt", "GStreamer", "frame path"):
        assert name in done.stdout
    assert all(line.startswith(("ok ", "-- ")) for line in done.stdout.splitlines())


def test_debug_shows_the_traceback(edge_command):
    done = edge_command("--debug", "inspect", "absent")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_an_engine_that_does_not_open_does_not_keep_the_others_from_being_timed(
    edge_command, built_engine, tmp_path
):
    words = ["bench", built_engine, tmp_path, built_engine.parent / "none", "--rounds", 1]
    done = edge_command(*words, "--backend", "onnxruntime")
    assert done.returncode == 1
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["engine"] == str(built_engine)
    assert f"{tmp_path} is not an engine" in done.stderr
    assert "there is no engine at" in done.stderr
