// A CUDA driver over host memory, for tests on machines that have none. Streams are lazy: what they
// are given runs when somebody waits for it, so that a wait that is missing always shows.
//
// Stricter than a GPU: memory freed while work on it is pending makes that work fail; cuMemFree
// does not wait. cuEventQuery and cuStreamQuery answer, and then run one piece of pending work.

#include "standin.h"
#include "state.hpp"

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <sstream>

using namespace standin;

namespace {

thread_local std::vector<CUcontext> current;  // this thread's stack of contexts
thread_local bool in_host_function = false;

std::string base_name(std::string name) {
    size_t mark = name.rfind("_v");
    return mark == std::string::npos ? name : name.substr(0, mark);
}

enum Needs { NOTHING, DRIVER, CONTEXT };

// Why a call cannot go on. In a broken context what releases things still does, and then says so.
CUresult enter(const char *function, Needs needs, bool releases = false) {
    State &all = state();
    std::string name = base_name(function);
    ++all.calls[name];
    if (in_host_function) {
        note(name + " called from a host function");
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (CUresult code = fault(name)) return code;
    if (needs >= DRIVER && !all.initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (needs < CONTEXT) return CUDA_SUCCESS;
    if (current.empty() || !current.back()) return CUDA_ERROR_INVALID_CONTEXT;
    if (current.back() != all.context) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return releases ? CUDA_SUCCESS : all.sticky;
}

#define ENTER(...)                                                       \
    Lock lock(state().mutex);                                            \
    if (CUresult refused = enter(__func__, __VA_ARGS__)) return refused; \
    [[maybe_unused]] State &all = state()

#define NOT_WHILE_CAPTURING \
    if (capturing_here()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

StreamRef stream_of(CUstream handle) {
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return state().legacy;
    return state().streams.get(handle);
}

#define STREAM(handle)                                     \
    StreamRef stream = stream_of(handle);                  \
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;         \
    if (stream == all.legacy) NOT_WHILE_CAPTURING

double now() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

template <class T, class Handle>
Handle keep(Table<T> &table, std::shared_ptr<T> object) {
    void *handle = new_handle();
    table.live[handle] = std::move(object);
    return static_cast<Handle>(handle);
}

template <class T>
CUresult drop(Table<T> &table, void *handle, const char *what) {
    if (table.live.erase(handle)) return state().sticky;
    note(std::string(what) + " destroyed that is not alive");
    return CUDA_ERROR_INVALID_HANDLE;
}

CUresult wait_for(Lock &lock, const StreamRef &stream) {
    if (stream->capture) {
        stream->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return drain(lock, stream, stream->queued);
}

}  // namespace

extern "C" {

// ---- the tests' own calls ----------------------------------------------------------------------

const char *standin_report() {
    Lock lock(state().mutex);
    static thread_local std::string text;
    std::ostringstream out;
    auto object = [&out](const char *name, const auto &counts) {
        out << '"' << name << "\": {";
        const char *comma = "";
        for (auto &[key, count] : counts) {
            if (count) out << comma << '"' << key << "\": " << count, comma = ", ";
        }
        out << "}, ";
    };
    out << '{';
    object("calls", state().calls);
    object("alive", alive());
    object("leaked", state().leaked);
    out << "\"notes\": [";
    for (size_t i = 0; i < state().notes.size(); ++i)
        out << (i ? ", \"" : "\"") << state().notes[i] << '"';
    out << "], \"bytes\": " << used() << ", \"retained\": " << state().retained
        << ", \"current\": " << current.size() << ", \"sticky\": " << state().sticky << '}';
    text = out.str();
    return text.c_str();
}

void standin_fail(const char *call, unsigned nth, unsigned times, int code, int sticky) {
    Lock lock(state().mutex);
    state().faults[call].push_back({nth, times, static_cast<CUresult>(code), sticky != 0});
}

CUresult standin_unused(const char *call) {
    Lock lock(state().mutex);
    note(std::string(call) + " is not in the stand-in driver");
    return CUDA_ERROR_NOT_SUPPORTED;
}

// ---- the driver and its device -----------------------------------------------------------------

CUresult CUDAAPI cuInit(unsigned) {
    ENTER(NOTHING);
    all.initialised = true;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
    ENTER(NOTHING);
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorString(CUresult code, const char **text) {
    switch (code) {  // the real driver's words
        case CUDA_SUCCESS: *text = "no error"; break;
        case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
        case CUDA_ERROR_NOT_INITIALIZED: *text = "initialization error"; break;
        case CUDA_ERROR_DEVICE_UNAVAILABLE:
            *text = "CUDA-capable device(s) is/are busy or unavailable"; break;
        case CUDA_ERROR_NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
        case CUDA_ERROR_INVALID_DEVICE: *text = "invalid device ordinal"; break;
        case CUDA_ERROR_INVALID_IMAGE: *text = "device kernel image is invalid"; break;
        case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
        case CUDA_ERROR_NO_BINARY_FOR_GPU:
            *text = "no kernel image is available for execution on the device"; break;
        case CUDA_ERROR_INVALID_HANDLE: *text = "invalid resource handle"; break;
        case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
        case CUDA_ERROR_NOT_READY: *text = "device not ready"; break;
        case CUDA_ERROR_ILLEGAL_ADDRESS:
            *text = "an illegal memory access was encountered"; break;
        case CUDA_ERROR_CONTEXT_IS_DESTROYED: *text = "context is destroyed"; break;
        case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
            *text = "part or all of the requested memory range is already mapped"; break;
        case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED:
            *text = "pointer does not correspond to a registered memory region"; break;
        case CUDA_ERROR_LAUNCH_FAILED: *text = "unspecified launch failure"; break;
        case CUDA_ERROR_NOT_PERMITTED: *text = "operation not permitted"; break;
        case CUDA_ERROR_NOT_SUPPORTED: *text = "operation not supported"; break;
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
            *text = "operation not permitted when stream is capturing"; break;
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
            *text = "operation failed due to a previous error during capture"; break;
        case CUDA_ERROR_UNKNOWN: *text = "unknown error"; break;
        default: *text = "another error"; break;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count) {
    ENTER(DRIVER);
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(DRIVER);
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult CUDAAPI cuDeviceGetName(char *name, int size, CUdevice) {
    ENTER(DRIVER);
    snprintf(name, size, "Stand-in GPU");
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice) {
    ENTER(DRIVER);
    memset(uuid, 0x5D, sizeof *uuid);
    return CUDA_SUCCESS;
}

static size_t total_memory() {
    const char *wanted = getenv("STANDIN_MEMORY");
    return wanted ? strtoull(wanted, nullptr, 10) : size_t(8) << 30;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice) {
    ENTER(DRIVER);
    *bytes = total_memory();
    return CUDA_SUCCESS;
}

static void capability(int *major, int *minor) {
    const char *wanted = getenv("STANDIN_COMPUTE_CAPABILITY");
    sscanf(wanted ? wanted : "8.7", "%d.%d", major, minor);
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice) {
    ENTER(DRIVER);
    capability(major, minor);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    ENTER(DRIVER);
    int major, minor;
    capability(&major, &minor);
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = major; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = minor; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 8; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_INTEGRATED:
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: *value = 1; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

// ---- contexts ----------------------------------------------------------------------------------

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    ENTER(DRIVER);
    if (all.retained++ == 0) {
        all.context = static_cast<CUcontext>(new_handle());
        all.legacy = std::make_shared<Stream>();
    }
    *context = all.context;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice) {
    ENTER(DRIVER);
    if (all.retained == 0) {
        note("primary context released more often than retained");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (--all.retained == 0) destroy_context();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *active) {
    ENTER(DRIVER);
    *flags = 0;
    *active = all.context != nullptr;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
    ENTER(DRIVER);
    if (!context || context != all.context) return CUDA_ERROR_INVALID_CONTEXT;
    current.push_back(context);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *context) {
    ENTER(DRIVER);
    if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = current.back();
    current.pop_back();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
    ENTER(DRIVER);
    if (!current.empty()) current.pop_back();
    if (context) current.push_back(context);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) {
    ENTER(DRIVER);
    *context = current.empty() ? nullptr : current.back();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
    ENTER(CONTEXT);
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetApiVersion(CUcontext, unsigned *version) {
    ENTER(DRIVER);
    *version = 3020;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSynchronize() {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    return drain_all(lock);
}

// ---- memory ------------------------------------------------------------------------------------

CUresult CUDAAPI cuMemGetInfo(size_t *free, size_t *total) {
    ENTER(CONTEXT);
    *total = total_memory();
    *free = *total - used();
    return CUDA_SUCCESS;
}

static CUresult make(uintptr_t *address, size_t size, Kind kind, bool mapped) {
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (size > total_memory() - used()) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = allocate(size, kind, mapped);
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *address, size_t size) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    uintptr_t made = 0;
    CUresult result = make(&made, size, Kind::device, false);
    *address = made;
    return result;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    ENTER(CONTEXT, true);
    NOT_WHILE_CAPTURING;
    CUresult result = release(address, Kind::device);
    return all.sticky ? all.sticky : result;
}

CUresult CUDAAPI cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    uintptr_t made = 0;
    CUresult result = make(&made, size, Kind::pinned, flags & CU_MEMHOSTALLOC_DEVICEMAP);
    *address = reinterpret_cast<void *>(made);
    return result;
}

CUresult CUDAAPI cuMemFreeHost(void *address) {
    ENTER(CONTEXT, true);
    NOT_WHILE_CAPTURING;
    CUresult result = release(reinterpret_cast<uintptr_t>(address), Kind::pinned);
    return all.sticky ? all.sticky : result;
}

CUresult CUDAAPI cuMemHostRegister(void *address, size_t size, unsigned flags) {
    ENTER(CONTEXT);
    auto start = reinterpret_cast<uintptr_t>(address);
    if (!usable_by_host(start, size) || is_pinned(start))
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    bool mapped = flags & CU_MEMHOSTREGISTER_DEVICEMAP;
    all.memory[start] = {Kind::registered, size, mapped, nullptr, 0};
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostUnregister(void *address) {
    ENTER(CONTEXT, true);
    CUresult result = release(reinterpret_cast<uintptr_t>(address), Kind::registered);
    if (result) result = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    return all.sticky ? all.sticky : result;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *address, void *host, unsigned) {
    ENTER(CONTEXT);
    auto found = all.memory.find(reinterpret_cast<uintptr_t>(host));
    if (found == all.memory.end() || !found->second.mapped) return CUDA_ERROR_INVALID_VALUE;
    *address = found->first;
    return CUDA_SUCCESS;
}

// What is not pinned is copied to a staging buffer before the call returns, and copied back before
// it returns too, as on a GPU.
static CUresult to_device(Lock &lock, const StreamRef &stream, CUdeviceptr target,
                          const void *source, size_t size) {
    auto from = reinterpret_cast<uintptr_t>(source);
    if (is_pinned(from) || stream->capture || !usable_by_host(from, size))
        return enqueue(stream, [=] { return copy(target, from, size, true, false); });
    auto bytes = static_cast<const char *>(source);
    auto staged = std::make_shared<std::vector<char>>(bytes, bytes + size);
    return enqueue(stream, [=] {
        auto from = reinterpret_cast<uintptr_t>(staged->data());
        return copy(target, from, staged->size(), true, false);
    });
}

static CUresult to_host(Lock &lock, const StreamRef &stream, void *target, CUdeviceptr source,
                        size_t size) {
    auto to = reinterpret_cast<uintptr_t>(target);
    bool waits = !is_pinned(to) && usable_by_host(to, size) && !stream->capture;
    enqueue(stream, [=] { return copy(to, source, size, false, true); });
    return waits ? drain(lock, stream, stream->queued) : CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t size,
                                   CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return to_device(lock, stream, target, source, size);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size,
                                   CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return to_host(lock, stream, target, source, size);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t size,
                                   CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return enqueue(stream, [=] { return copy(target, source, size, true, true); });
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr target, const void *source, size_t size) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    to_device(lock, all.legacy, target, source, size);
    return drain(lock, all.legacy, all.legacy->queued);
}

CUresult CUDAAPI cuMemcpyDtoH(void *target, CUdeviceptr source, size_t size) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    to_host(lock, all.legacy, target, source, size);
    return drain(lock, all.legacy, all.legacy->queued);
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr target, CUdeviceptr source, size_t size) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    return enqueue(all.legacy, [=] { return copy(target, source, size, true, true); });
}

static Work filling(CUdeviceptr target, unsigned char value, size_t size) {
    return [=] {
        {
            Lock lock(state().mutex);
            if (!readable(target, size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
        return guarded([=] { memset(reinterpret_cast<void *>(target), value, size); });
    };
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size,
                                 CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return enqueue(stream, filling(target, value, size));
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr target, unsigned char value, size_t size) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    return enqueue(all.legacy, filling(target, value, size));
}

// ---- streams and events ------------------------------------------------------------------------

CUresult CUDAAPI cuStreamCreate(CUstream *handle, unsigned flags) {
    ENTER(CONTEXT);
    auto stream = std::make_shared<Stream>();
    stream->flags = flags;
    *handle = keep<Stream, CUstream>(all.streams, stream);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    ENTER(CONTEXT, true);
    if (StreamRef stream = all.streams.get(handle))
        if (stream->done < stream->queued) all.zombies.push_back(stream);
    return drop(all.streams, handle, "a stream");
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return wait_for(lock, stream);
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    if (stream->done == stream->queued) return CUDA_SUCCESS;
    CUresult result = step(lock, stream);
    return result ? result : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned) {
    ENTER(CONTEXT);
    STREAM(handle);
    auto event = all.events.get(event_handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) {  // the stream joins the capture that the event is part of
        stream->capture = event->capture;
        return CUDA_SUCCESS;
    }
    if (stream->capture) {
        stream->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (!event->at.stream) return CUDA_SUCCESS;  // never recorded: nothing to wait for
    return enqueue(stream, [] { return CUDA_SUCCESS; }, {event->at});
}

CUresult CUDAAPI cuEventCreate(CUevent *handle, unsigned flags) {
    ENTER(CONTEXT);
    auto event = std::make_shared<Event>();
    event->flags = flags;
    *handle = keep<Event, CUevent>(all.events, event);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
    ENTER(CONTEXT, true);
    return drop(all.events, handle, "an event");
}

static CUresult record(const std::shared_ptr<Event> &event, const StreamRef &stream) {
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    event->capture = stream->capture;
    if (stream->capture) return CUDA_SUCCESS;
    auto time = event->time = std::make_shared<double>(0);
    enqueue(stream, [time] {
        *time = now();
        return CUDA_SUCCESS;
    });
    event->at = {stream, stream->queued};
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    return record(all.events.get(event), stream);
}

// An external record in a capture becomes a part of the graph, which sets the time when it runs.
CUresult CUDAAPI cuEventRecordWithFlags(CUevent event_handle, CUstream handle, unsigned flags) {
    ENTER(CONTEXT);
    STREAM(handle);
    auto event = all.events.get(event_handle);
    if (!event || !(flags & CU_EVENT_RECORD_EXTERNAL)) return record(event, stream);
    if (!stream->capture) return CUDA_ERROR_INVALID_VALUE;
    stream->capture->marks.push_back(event);
    return enqueue(stream, [event] {
        *event->time = now();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    ENTER(CONTEXT);
    auto event = all.events.get(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->at.stream) return CUDA_SUCCESS;
    return drain(lock, event->at.stream, event->at.ticket);
}

static bool is_done(const Event &event) {
    return !event.at.stream || event.at.stream->done >= event.at.ticket;
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    ENTER(CONTEXT);
    auto event = all.events.get(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (is_done(*event)) return CUDA_SUCCESS;
    CUresult result = step(lock, event->at.stream);
    return result ? result : CUDA_ERROR_NOT_READY;
}

CUresult CUDAAPI cuEventElapsedTime(float *elapsed, CUevent start_handle, CUevent end_handle) {
    ENTER(CONTEXT);
    auto start = all.events.get(start_handle), end = all.events.get(end_handle);
    if (!start || !end || !start->time || !end->time) return CUDA_ERROR_INVALID_HANDLE;
    if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
    if (!is_done(*start) || !is_done(*end)) return CUDA_ERROR_NOT_READY;
    *elapsed = static_cast<float>(*end->time - *start->time);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data) {
    ENTER(CONTEXT);
    STREAM(handle);
    return enqueue(stream, [=] {
        in_host_function = true;
        function(data);
        in_host_function = false;
        return CUDA_SUCCESS;
    });
}

// ---- kernels -----------------------------------------------------------------------------------

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *handle, const void *image, unsigned count,
                                    CUjit_option *options, void **values) {
    ENTER(CONTEXT);
    for (unsigned i = 0; i < count; ++i)  // what is written to the logs: nothing
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES ||
            options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            values[i] = nullptr;
    auto path = static_cast<const char *>(image);
    void *library = path[0] == '/' ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library) {
        note(path[0] == '/' ? dlerror() : "an image that is no path of a library");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *handle = keep<Module, CUmodule>(all.modules, std::make_shared<Module>(Module{library, path}));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *handle, const void *image) {
    return cuModuleLoadDataEx(handle, image, 0, nullptr, nullptr);
}

CUresult CUDAAPI cuModuleUnload(CUmodule handle) {
    ENTER(CONTEXT, true);
    auto module = all.modules.get(handle);
    CUresult result = drop(all.modules, handle, "a module");
    if (!module) return result;
    for (auto it = all.functions.live.begin(); it != all.functions.live.end();)
        it = it->second->module == handle ? all.functions.live.erase(it) : std::next(it);
    dlclose(module->library);
    return result;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *handle, CUmodule module_handle,
                                     const char *name) {
    ENTER(CONTEXT);
    auto module = all.modules.get(module_handle);
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    void *entry = dlsym(module->library, (std::string(name) + "_host").c_str());
    if (!entry) return CUDA_ERROR_NOT_FOUND;
    *handle = keep<Function, CUfunction>(
        all.functions, std::make_shared<Function>(Function{name, entry, module_handle}));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction) {
    ENTER(CONTEXT);
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction function_handle, unsigned grid_x, unsigned grid_y,
                                unsigned grid_z, unsigned block_x, unsigned block_y,
                                unsigned block_z, unsigned shared, CUstream handle,
                                void **parameters, void **extra) {
    ENTER(CONTEXT);
    STREAM(handle);
    auto function = all.functions.get(function_handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    unsigned long long threads = 1ull * block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535 || threads == 0 ||
        threads > 1024 || block_z > 64 || shared > 48 * 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (parameters) return CUDA_ERROR_NOT_SUPPORTED;  // they come without their sizes
    auto arguments = std::make_shared<std::vector<std::max_align_t>>();
    const void *buffer = nullptr;
    size_t size = 0;
    for (void **next = extra; next && *next != CU_LAUNCH_PARAM_END; next += 2) {
        if (*next == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = next[1];
        if (*next == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<size_t *>(next[1]);
    }
    arguments->resize(size / sizeof(std::max_align_t) + 1);
    if (size) memcpy(arguments->data(), buffer, size);
    return enqueue(stream, [=] {
        {
            Lock lock(state().mutex);
            ++state().calls["run:" + function->name];
            if (CUresult code = fault("run:" + function->name)) return code;
            if (!state().modules.get(function->module)) return CUDA_ERROR_LAUNCH_FAILED;
        }
        unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
        auto kernel = reinterpret_cast<standin_kernel>(function->entry);
        return guarded([&] { kernel(grid, block, shared, arguments->data()); });
    });
}

// ---- graphs ------------------------------------------------------------------------------------

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    ENTER(CONTEXT);
    STREAM(handle);
    if (stream == all.legacy || stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_shared<Graph>();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->origin = stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    ENTER(CONTEXT);
    STREAM(handle);
    *status = !stream->capture            ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                         : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    ENTER(CONTEXT, true);
    STREAM(handle);
    *graph = nullptr;
    GraphRef captured = stream->capture;
    if (!captured || captured->origin != stream) return CUDA_ERROR_ILLEGAL_STATE;
    for (auto &[other, joined] : all.streams.live)
        if (joined->capture == captured) joined->capture.reset();
    captured->origin.reset();
    if (all.sticky) return all.sticky;
    if (captured->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = keep<Graph, CUgraph>(all.graphs, captured);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *executable, CUgraph handle, unsigned long long) {
    ENTER(CONTEXT);
    auto graph = all.graphs.get(handle);
    if (!graph) return CUDA_ERROR_INVALID_HANDLE;
    *executable = keep<Graph, CUgraphExec>(all.executables, std::make_shared<Graph>(*graph));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    ENTER(CONTEXT);
    STREAM(handle);
    auto graph = all.executables.get(executable);
    if (!graph) return CUDA_ERROR_INVALID_HANDLE;
    CUresult result = enqueue(stream, [graph] {
        for (auto &work : graph->works)
            if (CUresult result = work()) return result;
        return CUDA_SUCCESS;
    });
    for (auto &event : graph->marks) {
        event->time = std::make_shared<double>(0);
        event->at = {stream, stream->queued};
    }
    return result;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
    ENTER(CONTEXT, true);
    return drop(all.graphs, handle, "a graph");
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
    ENTER(CONTEXT, true);
    return drop(all.executables, handle, "an executable graph");
}

// ---- arrays, textures and EGL images -----------------------------------------------------------

static unsigned channel_bytes(CUarray_format format) {
    switch (format) {
        case CU_AD_FORMAT_UNSIGNED_INT8:
        case CU_AD_FORMAT_SIGNED_INT8: return 1;
        case CU_AD_FORMAT_UNSIGNED_INT16:
        case CU_AD_FORMAT_SIGNED_INT16:
        case CU_AD_FORMAT_HALF: return 2;
        default: return 4;
    }
}

CUresult CUDAAPI cuArrayCreate(CUarray *handle, const CUDA_ARRAY_DESCRIPTOR *form) {
    ENTER(CONTEXT);
    auto array = std::make_shared<Array>();
    array->form = {form->Width, form->Height, 0, form->Format, form->NumChannels, 0};
    array->pitch = form->Width * form->NumChannels * channel_bytes(form->Format);
    uintptr_t memory = 0;
    size_t rows = form->Height ? form->Height : 1;
    if (CUresult result = make(&memory, array->pitch * rows, Kind::device, false)) return result;
    array->memory = memory;
    *handle = keep<Array, CUarray>(all.arrays, array);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuArray3DGetDescriptor(CUDA_ARRAY3D_DESCRIPTOR *form, CUarray handle) {
    ENTER(CONTEXT);
    auto array = all.arrays.get(handle);
    if (!array) return CUDA_ERROR_INVALID_HANDLE;
    *form = array->form;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuArrayDestroy(CUarray handle) {
    ENTER(CONTEXT, true);
    if (auto array = all.arrays.get(handle)) release(array->memory, Kind::device);
    return drop(all.arrays, handle, "an array");
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *what) {
    ENTER(CONTEXT);
    NOT_WHILE_CAPTURING;
    struct Side {
        uintptr_t start;
        size_t pitch;
        bool device;
    };
    auto side = [&](CUmemorytype type, const void *host, CUdeviceptr device, CUarray handle,
                    size_t pitch, size_t x, size_t y) -> Side {
        if (type == CU_MEMORYTYPE_ARRAY) {
            auto array = all.arrays.get(handle);
            return array ? Side{array->memory + y * array->pitch + x, array->pitch, true} : Side{};
        }
        bool on_device = type == CU_MEMORYTYPE_DEVICE;
        uintptr_t start = on_device ? device : reinterpret_cast<uintptr_t>(host);
        return {start + y * pitch + x, pitch, on_device};
    };
    Side from = side(what->srcMemoryType, what->srcHost, what->srcDevice, what->srcArray,
                     what->srcPitch, what->srcXInBytes, what->srcY);
    Side to = side(what->dstMemoryType, what->dstHost, what->dstDevice, what->dstArray,
                   what->dstPitch, what->dstXInBytes, what->dstY);
    if (!from.start || !to.start) return CUDA_ERROR_INVALID_HANDLE;
    size_t width = what->WidthInBytes, height = what->Height;
    enqueue(all.legacy, [=] {
        for (size_t row = 0; row < height; ++row)
            if (CUresult result = copy(to.start + row * to.pitch, from.start + row * from.pitch,
                                       width, to.device, from.device))
                return result;
        return CUDA_SUCCESS;
    });
    return drain(lock, all.legacy, all.legacy->queued);
}

CUresult CUDAAPI cuTexObjectCreate(CUtexObject *handle, const CUDA_RESOURCE_DESC *resource,
                                   const CUDA_TEXTURE_DESC *, const CUDA_RESOURCE_VIEW_DESC *) {
    ENTER(CONTEXT);
    if (resource->resType != CU_RESOURCE_TYPE_ARRAY) return CUDA_ERROR_NOT_SUPPORTED;
    auto array = all.arrays.get(resource->res.array.hArray);
    if (!array) return CUDA_ERROR_INVALID_HANDLE;
    uintptr_t memory = 0;
    if (CUresult result = make(&memory, sizeof(standin_texture), Kind::device, false))
        return result;
    *reinterpret_cast<standin_texture *>(memory) = {
        reinterpret_cast<unsigned char *>(array->memory),
        array->form.Width,
        array->form.Height,
        array->pitch,
        array->form.NumChannels,
        channel_bytes(array->form.Format),
    };
    all.textures.live[reinterpret_cast<void *>(memory)] = std::make_shared<CUdeviceptr>(memory);
    *handle = memory;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTexObjectDestroy(CUtexObject handle) {
    ENTER(CONTEXT, true);
    auto known = reinterpret_cast<void *>(handle);
    if (all.textures.get(known)) release(handle, Kind::device);
    return drop(all.textures, known, "a texture object");
}

// cudaEGL.h needs EGL's own headers, for two names.
struct CUeglFrame {
    void *planes[3];
    unsigned width, height, depth, pitch, planeCount, numChannels;
    int frameType, eglColorFormat, cuFormat;
};
static_assert(sizeof(CUeglFrame) == 64, "as in cudaEGL.h");

// An EGLImage is here the address of the CUeglFrame that is to come back.
CUresult CUDAAPI cuGraphicsEGLRegisterImage(CUgraphicsResource *handle, void *image, unsigned) {
    ENTER(CONTEXT);
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    *handle = keep<void *, CUgraphicsResource>(all.images, std::make_shared<void *>(image));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphicsResourceGetMappedEglFrame(CUeglFrame *frame, CUgraphicsResource handle,
                                                     unsigned, unsigned) {
    ENTER(CONTEXT);
    auto image = all.images.get(handle);
    if (!image) return CUDA_ERROR_INVALID_HANDLE;
    *frame = *static_cast<CUeglFrame *>(*image);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphicsUnregisterResource(CUgraphicsResource handle) {
    ENTER(CONTEXT, true);
    return drop(all.images, handle, "an EGL image");
}

// ---- how cuda-bindings finds the calls ---------------------------------------------------------

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **function, int, cuuint64_t,
                                  CUdriverProcAddressQueryResult *status) {
    std::string name = symbol;
    if (name == "cuGraphInstantiate") name += "WithFlags";
    static void *self = [] {
        Dl_info found;
        dladdr(reinterpret_cast<void *>(&standin_report), &found);
        return dlopen(found.dli_fname, RTLD_NOW);
    }();
    *function = nullptr;
    for (const char *version : {"_v4", "_v3", "_v2", ""})
        if ((*function = dlsym(self, (name + version).c_str()))) break;
    if (status)
        *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // extern "C"
