"""edge.gpu.device through the real PyCUDA and cuda-bindings, on the stand-in driver.

Its streams run when they are waited for and its memory starts as 0xCB, so that what is read too
early is never what is expected. After each test nothing may be left on it: see `Driver.check`.
"""

import ctypes
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BackendError, MissingPackage
from edge.gpu.bindings import NoCapture
from edge.gpu.device import Device
from tests.cuda_driver.standin import (
    DEVICE_LOST,
    ILLEGAL_ADDRESS,
    LAUNCH_FAILED,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    Driver,
    emulated,
    run,
)

KERNELS = Path(__file__).parents[1] / "cuda_driver/kernels.cu"
COUNT = 1000
ONE_BLOCK = (1, 1, 1)


class Scaler:
    """out = factor * in, COUNT numbers, through pinned memory and the kernel `scale`."""

    def __init__(self, driver: Driver, device: Device):
        self.device = device
        self.source, self.result = device.pinned((COUNT,)), device.pinned((COUNT,))
        self.source[:] = np.arange(COUNT)
        self.memory = device.allocate(self.source.nbytes), device.allocate(self.result.nbytes)
        self.kernel = device.load(driver.image(KERNELS)).function("scale")

    def give(self, stream, factor):
        stream.upload(self.memory[0], self.source)
        self.launch(stream, factor)
        stream.download(self.result, self.memory[1])

    def launch(self, stream, factor):
        arguments = self.memory[1], self.memory[0], np.float32(factor), np.int32(COUNT)
        stream.launch(self.kernel, (4, 1, 1), (256, 1, 1), 0, *arguments)


@emulated(capability="11.0", memory=1 << 30)
def test_a_device_reports_its_properties(driver):
    with closing(Device()) as device, device:
        assert device.name == "Stand-in GPU"
        assert device.compute_capability == "11.0"
        free, total = device.memory()
        assert total == 1 << 30
        device.allocate(1 << 20)
        told = []
        elsewhere = threading.Thread(target=lambda: told.append(device.memory()))
        elsewhere.start()
        elsewhere.join()
        assert told == [(free - (1 << 20), total)]
        current = ctypes.c_void_p()
        assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(current)) == 0
        assert device.handle == current.value
    assert device.closed
    device.close()


@emulated
def test_work_is_done_in_order_and_complete_after_wait(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        fresh = scaler.result.copy()
        scaler.give(device.stream, 3)
        assert np.array_equal(scaler.result, fresh)
        device.stream.wait()
        assert np.array_equal(scaler.result, 3 * scaler.source)


@emulated
def test_memory_is_read_while_work_is_captured_or_pending(driver):
    """CUDA's default stream would fail, or wait for the work of other libraries."""
    with closing(Device()) as device, device:
        memory, scaler = device.mapped(4), Scaler(driver, device)
        memory.array[:] = [1, 2, 3, 4]
        pending = scaler.result.copy()
        scaler.give(device.stream, 3)
        assert device.read(memory.address, 4).tolist() == [1, 2, 3, 4]
        assert np.array_equal(scaler.result, pending)
        device.stream.wait()
        with device.stream.capture():
            scaler.give(device.stream, 2)
            assert device.read(memory.address, 4).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32", "float64"])
@emulated
def test_pinned_memory_of_any_dtype_survives_a_round_trip(driver, dtype):
    with closing(Device()) as device, device:
        there, back = device.pinned((5, 7), dtype), device.pinned((5, 7), dtype)
        there[:] = np.arange(35).reshape(5, 7)
        memory = device.allocate(there.nbytes)
        device.stream.upload(memory, there)
        # From the second row on, into the second row: addresses are plain numbers.
        device.stream.download(back[1:], int(memory) + there[0].nbytes)
        device.stream.wait()
        assert np.array_equal(back[1:], there[1:])


@emulated
def test_a_stream_waits_for_an_event_of_another(driver):
    with closing(Device()) as device, device:
        first, second = device.stream, device.new_stream()
        scaler, uploaded = Scaler(driver, device), device.event()
        first.upload(scaler.memory[0], scaler.source)
        uploaded.record(first)
        second.wait_for(uploaded)
        scaler.launch(second, 2)
        second.download(scaler.result, scaler.memory[1])
        second.wait()
        assert np.array_equal(scaler.result, 2 * scaler.source)


@emulated
def test_an_event_reports_when_it_is_reached_and_the_time_between_two(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        never, start, end = device.event(), device.event(timing=True), device.event(timing=True)
        assert never.done
        start.record(device.stream)
        scaler.give(device.stream, 2)
        end.record(device.stream)
        assert not end.done
        end.wait()
        assert end.done
        assert np.array_equal(scaler.result, 2 * scaler.source)
        assert 0 < end.ms_since(start) < 10_000
        never.record(device.stream)
        device.stream.wait()
        with pytest.raises(BackendError, match="cuEventElapsedTime failed"):
            never.ms_since(start)


@emulated
def test_a_kernel_reads_and_writes_mapped_memory_in_place(driver):
    with closing(Device()) as device, device:
        picture, result = device.mapped(6 * 8), device.mapped(4 * 6)
        assert picture.array.dtype == np.uint8
        picture.array[:] = np.arange(48)
        # A struct by value, between its members and after it: as C lays them out.
        members = [("rows", np.uint64), ("pitch", np.int32), ("width", np.int32)]
        shape = np.zeros((), np.dtype([*members, ("height", np.int32)], align=True))
        shape[()] = picture.address, 8, 6, 4
        gather = device.load(driver.image(KERNELS)).function("gather")
        arguments = shape[()], np.uint64(result.address)
        device.stream.launch(gather, ONE_BLOCK, (8, 8, 1), 0, *arguments)
        device.stream.wait()
        expected = np.arange(48).reshape(6, 8)[:4, :6]
        assert np.array_equal(result.array.reshape(4, 6), expected)
        assert driver.calls("cuMemcpyHtoDAsync") == 0
        device.free(picture)
        device.free(picture)
        assert driver.calls("cuMemFreeHost") == 1


@emulated
def test_kernel_arguments_have_the_c_layout(driver):
    with closing(Device()) as device, device:
        result = device.pinned((5,))
        memory = device.allocate(result.nbytes)
        fill = device.load(driver.image(KERNELS)).function("fill")
        arguments = np.int8(-3), memory, np.int16(5), np.float64(0.5)
        device.stream.launch(fill, ONE_BLOCK, (8, 1, 1), 0, *arguments)
        device.stream.download(result, memory)
        device.stream.wait()
        assert (result == -1.5).all()


@emulated
def test_a_stream_does_not_synchronise_with_the_default_stream(driver):
    # What a library does on the default stream would else wait for ours, and ours for it.
    with closing(Device()) as device, device:
        scaler, other = Scaler(driver, device), device.allocate(4)
        scaler.give(device.stream, 2)
        word = ctypes.create_string_buffer(4)
        copy = ctypes.CDLL("libcuda.so.1").cuMemcpyDtoH_v2
        assert copy(word, ctypes.c_uint64(other.address), ctypes.c_size_t(4)) == 0
        assert word.raw == b"\xcb" * 4
        assert driver.calls("run:scale") == 0
        device.stream.wait()
        assert driver.calls("run:scale") == 1


@emulated
def test_captured_work_runs_at_each_launch_of_the_graph(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        with device.stream.capture() as graph:
            scaler.give(device.stream, 2)
        device.stream.wait()
        assert driver.calls("run:scale") == 0
        for offset in (0, 5):
            scaler.source += offset
            graph.launch(device.stream)
            device.stream.wait()
            assert np.array_equal(scaler.result, 2 * scaler.source)
        assert driver.calls("cuLaunchKernel") == 1
        assert driver.calls("run:scale") == 2
        device.free(graph)
        assert driver.calls("cuGraphExecDestroy") == 1


@emulated
def test_a_host_function_runs_in_stream_order_and_in_a_graph(driver):
    with closing(Device()) as device, device:
        source, middle, result = (device.pinned((4,)) for _ in range(3))
        memory = device.allocate(source.nbytes)
        turns = []

        def engine():
            turns.append(middle.tolist())
            middle[:] += 1

        def give():
            device.stream.upload(memory, source)
            device.stream.download(middle, memory)
            driver.host_function(device.stream.handle, engine)
            device.stream.upload(memory, middle)
            device.stream.download(result, memory)

        source[:] = 7
        give()
        device.stream.wait()
        assert (result == 8).all()
        with device.stream.capture() as graph:
            give()
        source[:] = 20
        graph.launch(device.stream)
        assert (result == 8).all()
        device.stream.wait()
        assert (result == 21).all()
        assert turns == [[7] * 4, [20] * 4]


@emulated
def test_everything_is_released_once_newest_first(driver):
    released = []
    device = Device()
    for number in range(3):
        device.own(object(), lambda number=number: released.append(number))
    early = device.own(object(), lambda: released.append("early"))
    device.free(early)
    device.free(early)
    device.close()
    device.close()
    assert released == ["early", 2, 1, 0]


@emulated
def test_a_failed_capture_leaves_the_stream_unchanged(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        for call in ("cuStreamBeginCapture", "cuGraphInstantiateWithFlags"):
            driver.fail(call, NOT_SUPPORTED)
            with (
                pytest.raises(NoCapture, match=r"no CUDA graph: \w+ failed: operation not"),
                device.stream.capture(),
            ):
                scaler.give(device.stream, 2)
        with (
            pytest.raises(NoCapture, match="when stream is capturing"),
            device.stream.capture(),
        ):
            scaler.give(device.stream, 2)
            device.stream.wait()
        with pytest.raises(ZeroDivisionError), device.stream.capture():
            scaler.give(device.stream, 1 / 0)
        scaler.give(device.stream, 4)
        device.stream.wait()
        assert np.array_equal(scaler.result, 4 * scaler.source)


@emulated
def test_without_cuda_bindings_a_capture_names_the_package_to_install(driver):
    sys.modules["cuda.bindings.driver"] = None
    with closing(Device()) as device, device:
        with (
            pytest.raises(NoCapture, match="cannot be imported") as caught,
            device.stream.capture(),
        ):
            pass
        assert "pip install -c constraints.txt '.[cuda]'" in caught.value.hint
        with pytest.raises(MissingPackage):
            _ = device.egl


class Frame(ctypes.Structure):
    """CUeglFrame: the stand-in takes its address for an EGLImage."""

    _fields_ = [
        ("planes", ctypes.c_void_p * 3),
        *((n, ctypes.c_uint) for n in ("width", "height", "depth", "pitch", "count", "channels")),
        *((n, ctypes.c_int) for n in ("type", "egl_format", "format")),
    ]


@emulated
def test_a_pitch_linear_egl_image_gives_addresses(driver):
    with closing(Device()) as device, device:
        luma, chroma = device.allocate(64 * 4), device.allocate(64 * 2)
        planes = (ctypes.c_void_p * 3)(luma.address, chroma.address)
        frame = Frame(planes, 60, 4, 1, 64, 2, 1, 1)
        egl = device.egl
        driver.fail("cuGraphicsEGLRegisterImage", NOT_SUPPORTED)  # a TX2 refuses READ_ONLY
        with pytest.raises(BackendError, match="cuGraphicsEGLRegisterImage failed"):
            egl.register(ctypes.addressof(frame), 1)
        resource = egl.register(ctypes.addressof(frame), 0)
        assert egl.mapped_frame(resource) == ((luma.address, chroma.address), 64, 1)
        egl.unregister(resource)
        assert not driver.report()["alive"].get("images")


@emulated
def test_an_egl_image_of_arrays_gives_textures(driver):
    from cuda.bindings import driver as cuda

    with closing(Device()) as device, device:
        shape = cuda.CUDA_ARRAY_DESCRIPTOR()
        shape.Width, shape.Height, shape.NumChannels = 6, 4, 1
        shape.Format = cuda.CUarray_format.CU_AD_FORMAT_UNSIGNED_INT8
        _, array = cuda.cuArrayCreate(shape)
        pixels = np.arange(24, dtype=np.uint8)
        copy = cuda.CUDA_MEMCPY2D()
        copy.srcMemoryType = cuda.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.srcHost, copy.srcPitch = pixels.ctypes.data, 6
        copy.dstMemoryType = cuda.CUmemorytype.CU_MEMORYTYPE_ARRAY
        copy.dstArray, copy.WidthInBytes, copy.Height = array, 6, 4
        assert not cuda.cuMemcpy2D(copy)[0]

        frame = Frame((ctypes.c_void_p * 3)(int(array)), 6, 4, 1, 0, 1, 1, 0)
        egl = device.egl
        resource = egl.register(ctypes.addressof(frame), 1)
        (plane,), _, kind = egl.mapped_frame(resource)
        assert kind == 0
        texture = egl.texture(plane, 1)
        result = device.mapped(24)
        read = device.load(driver.image(KERNELS)).function("read_texture")
        numbers = np.uint64(texture), np.uint64(result.address), np.int32(6), np.int32(4)
        device.stream.launch(read, ONE_BLOCK, (8, 4, 1), 0, *numbers)
        device.stream.wait()
        assert np.array_equal(result.array, pixels)
        egl.destroy_texture(texture)
        egl.unregister(resource)
        assert not driver.report()["alive"].get("textures")
        assert not cuda.cuArrayDestroy(array)[0]


@emulated
def test_two_threads_work_on_one_device(driver):
    failures = []

    def work(factor):
        try:
            with device:
                scaler, stream = Scaler(driver, device), device.new_stream()
                for _ in range(20):
                    scaler.give(stream, factor)
                    stream.wait()
                    assert np.array_equal(scaler.result, factor * scaler.source)
        except BaseException as error:
            failures.append(error)

    device = Device()
    threads = [threading.Thread(target=work, args=(factor,)) for factor in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    closer = threading.Thread(target=device.close)  # another thread than the one that opened it
    closer.start()
    closer.join()


@emulated
def test_two_devices_share_the_primary_context(driver):
    with closing(Device()) as first, closing(Device()) as second:
        assert first.handle == second.handle
        first.close()
        with second:
            second.stream.wait()
    with closing(Device()) as again, again:
        again.stream.wait()


# ---- faults ------------------------------------------------------------------------------------


@emulated(memory=1 << 20)
def test_out_of_memory_names_the_call_and_a_hint(driver):
    with closing(Device()) as device, device:
        device.allocate(1 << 19)
        for ask in (device.allocate, device.mapped, lambda size: device.pinned((size,), np.uint8)):
            with pytest.raises(BackendError, match=r"cu\w+ failed: out of memory") as caught:
                ask(1 << 20)
            assert "--max-batch" in caught.value.hint


MAKING = ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuStreamCreate"]
MAKING += ["cuMemAlloc", "cuMemHostAlloc", "cuModuleLoadDataEx", "cuModuleGetFunction"]
MAKING += ["cuMemcpyHtoDAsync", "cuLaunchKernel", "run:scale", "cuStreamSynchronize"]


@pytest.mark.parametrize("call", MAKING)
@pytest.mark.parametrize("code", [OUT_OF_MEMORY, LAUNCH_FAILED, DEVICE_LOST])
@emulated
def test_any_failed_call_is_named_and_everything_is_released(driver, call, code):
    # PyCUDA asks again for memory that it did not get, once it has collected garbage.
    times = 3 if call in ("cuMemAlloc", "cuMemHostAlloc") else 1
    driver.fail(call, code, times=times, sticky=code != OUT_OF_MEMORY)
    with pytest.raises(BackendError) as caught, closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        scaler.give(device.stream, 2)
        device.stream.wait()
    name = "cuStreamSynchronize" if call == "run:scale" else call
    assert caught.value.problem.startswith(f"{name} failed: "), caught.value
    words = {OUT_OF_MEMORY: "close other", LAUNCH_FAILED: "restart", DEVICE_LOST: "dmesg"}
    assert words[code] in caught.value.hint


@emulated
def test_a_failure_during_close_is_raised(driver):
    device = Device()
    with device:
        scaler = Scaler(driver, device)
        scaler.give(device.stream, 2)
    driver.fail("run:scale", LAUNCH_FAILED)
    with pytest.raises(BackendError, match="cuCtxSynchronize failed: unspecified launch failure"):
        device.close()


@emulated
def test_a_failure_during_close_does_not_hide_an_earlier_one(driver):
    with pytest.raises(KeyError, match="first"), closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        with device.stream.capture():
            scaler.give(device.stream, 2)
        scaler.give(device.stream, 2)
        driver.fail("run:scale", ILLEGAL_ADDRESS)
        raise KeyError("first")


# ---- planted bugs: what the stand-in is for ------------------------------------------------------


def missing_wait(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        scaler.give(device.stream, 2)
        assert np.array_equal(scaler.result, 2 * scaler.source), "read too early"


def missing_wait_for_an_event(driver):
    with closing(Device()) as device, device:
        scaler, second = Scaler(driver, device), device.new_stream()
        device.stream.upload(scaler.memory[0], scaler.source)
        scaler.launch(second, 2)
        second.download(scaler.result, scaler.memory[1])
        second.wait()
        assert np.array_equal(scaler.result, 2 * scaler.source), "read too early"


def source_changed_before_the_copy(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        expected = 2 * scaler.source
        scaler.give(device.stream, 2)
        scaler.source[:] = 0
        device.stream.wait()
        assert np.array_equal(scaler.result, expected), "copied too late"


def use_after_free(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        scaler.give(device.stream, 2)
        device.free(scaler.memory[0])
        device.stream.wait()


def kernel_uses_freed_memory(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        device.free(scaler.memory[1])
        scaler.launch(device.stream, 2)
        device.stream.wait()


def graph_uses_freed_memory(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        with device.stream.capture() as graph:
            scaler.give(device.stream, 2)
        device.free(scaler.memory[0])
        graph.launch(device.stream)
        device.stream.wait()


def written_past_the_end(driver):
    with closing(Device()) as device, device:
        scaler = Scaler(driver, device)
        short = device.allocate(scaler.source.nbytes - 4)
        arguments = short, scaler.memory[0], np.float32(2), np.int32(COUNT)
        device.stream.launch(scaler.kernel, (4, 1, 1), (256, 1, 1), 0, *arguments)
        device.stream.wait()


def leak(driver):
    with closing(Device()) as device, device:
        memory, release = device._owned[id(device.allocate(4096))]
        device._owned.pop(id(memory))
        driver.kept = release


def never_closed(driver):
    Device()


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        (missing_wait, "read too early"),
        (missing_wait_for_an_event, "read too early"),
        (source_changed_before_the_copy, "copied too late"),
        (use_after_free, "cuStreamSynchronize failed: an illegal memory access"),
        (kernel_uses_freed_memory, "cuStreamSynchronize failed: an illegal memory access"),
        (graph_uses_freed_memory, "cuStreamSynchronize failed: an illegal memory access"),
        (written_past_the_end, "written outside an allocation of 3996 bytes"),
        (leak, "leaked: {'device': 1}"),
        (never_closed, "alive: {'streams': 2}"),
    ],
)
def test_a_planted_bug_is_found(bug, words):
    done = run(bug)
    assert done.returncode == 1, done.stdout + done.stderr
    assert words in done.stderr
