#include "state.hpp"

#include <csignal>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>

namespace standin {

State &state() {
    static State *only = new State;  // never destroyed: Python's last objects still call
    return *only;
}

void *new_handle() {
    static uintptr_t last = 0x1000;  // never one twice, so that a stale one is always known
    return reinterpret_cast<void *>(last += 16);
}

void note(const std::string &text) { state().notes.push_back(text); }

CUresult failed(CUresult code) {
    if (code != CUDA_SUCCESS && state().sticky == CUDA_SUCCESS) state().sticky = code;
    return code;
}

CUresult fault(const std::string &call) {
    auto found = state().faults.find(call);
    if (found == state().faults.end() || found->second.empty()) return CUDA_SUCCESS;
    Fault &next = found->second.front();
    if (next.nth > 1) {
        --next.nth;
        return CUDA_SUCCESS;
    }
    Fault now = next;
    if (--next.times == 0) found->second.pop_front();
    return now.sticky ? failed(now.code) : now.code;
}

std::map<std::string, size_t> alive() {
    State &all = state();
    std::map<std::string, size_t> counts = {
        {"streams", all.streams.live.size()},       {"events", all.events.live.size()},
        {"modules", all.modules.live.size()},       {"graphs", all.graphs.live.size()},
        {"executables", all.executables.live.size()}, {"arrays", all.arrays.live.size()},
        {"textures", all.textures.live.size()},     {"images", all.images.live.size()},
        {"device", 0},                              {"pinned", 0},
        {"registered", 0},
    };
    for (auto &[address, block] : all.memory) {
        bool inner = false;  // what an array or a texture object stands on
        for (auto &[handle, array] : all.arrays.live) inner |= array->memory == address;
        for (auto &[handle, texture] : all.textures.live) inner |= *texture == address;
        if (inner) continue;
        const char *kinds[] = {"device", "pinned", "registered"};
        ++counts[kinds[static_cast<int>(block.kind)]];
    }
    return counts;
}

// ---- memory ------------------------------------------------------------------------------------

constexpr size_t PAGE = 4096, ALIGNMENT = 256, GRAVES = 4096;

size_t used() {
    size_t sum = 0;
    for (auto &[address, block] : state().memory) sum += block.pages ? block.size : 0;
    return sum;
}

// Memory ends at a page that cannot be touched, or less than ALIGNMENT bytes before it.
uintptr_t allocate(size_t size, Kind kind, bool mapped) {
    size_t room = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t data = (room + PAGE - 1) / PAGE * PAGE;
    void *pages = mmap(nullptr, data + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
    if (pages == MAP_FAILED) return 0;
    memset(pages, FRESH, data);
    mprotect(static_cast<char *>(pages) + data, PAGE, PROT_NONE);
    uintptr_t address = reinterpret_cast<uintptr_t>(pages) + data - room;
    state().memory[address] = {kind, size, mapped, pages, data + PAGE};
    return address;
}

CUresult release(uintptr_t address, Kind kind) {
    State &all = state();
    auto found = all.memory.find(address);
    if (found == all.memory.end() || found->second.kind != kind) {
        note(all.dead.count(address) ? "memory freed twice" : "freed what is no such memory");
        return CUDA_ERROR_INVALID_VALUE;
    }
    Block block = found->second;
    all.memory.erase(found);
    if (!block.pages) return CUDA_SUCCESS;
    auto *bytes = static_cast<unsigned char *>(block.pages);
    size_t start = address - reinterpret_cast<uintptr_t>(block.pages);
    for (size_t i = 0; i < block.pages_size - PAGE; ++i)
        if ((i < start || i >= start + block.size) && bytes[i] != FRESH) {
            note("written outside an allocation of " + std::to_string(block.size) + " bytes");
            break;
        }
    // Nothing can touch it any more, and no new memory gets its address for a long while.
    mprotect(block.pages, block.pages_size, PROT_NONE);
    madvise(block.pages, block.pages_size, MADV_DONTNEED);
    all.dead[address] = block;
    all.burials.push_back(address);
    if (all.burials.size() > GRAVES) {
        Block &oldest = all.dead[all.burials.front()];
        munmap(oldest.pages, oldest.pages_size);
        all.dead.erase(all.burials.front());
        all.burials.pop_front();
    }
    return CUDA_SUCCESS;
}

static const Block *holding(const std::map<uintptr_t, Block> &blocks, uintptr_t address,
                            size_t size) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return nullptr;
    auto &[start, block] = *std::prev(after);
    return address + size <= start + block.size ? &block : nullptr;
}

static bool touches(const std::map<uintptr_t, Block> &blocks, uintptr_t address, size_t size) {
    auto after = blocks.lower_bound(address + size);
    if (after == blocks.begin()) return false;
    auto &[start, block] = *std::prev(after);
    return start + block.size > address;
}

bool readable(uintptr_t address, size_t size) {
    return holding(state().memory, address, size) != nullptr;
}

bool is_pinned(uintptr_t address) {
    const Block *block = holding(state().memory, address, 1);
    return block && block->kind != Kind::device;
}

bool usable_by_host(uintptr_t address, size_t size) {
    if (const Block *block = holding(state().memory, address, size))
        return block->kind != Kind::device;
    // Memory that this driver knows nothing of is the host's own; see cuMemcpyHtoDAsync.
    return !touches(state().memory, address, size) && !touches(state().dead, address, size);
}

static thread_local sigjmp_buf *way_back = nullptr;
static struct sigaction before[2];

static void on_fault(int signal, siginfo_t *, void *) {
    if (way_back) siglongjmp(*way_back, 1);
    sigaction(signal, &before[signal == SIGBUS], nullptr);  // not ours: it happens again, as it was
}

CUresult guarded(const std::function<void()> &touch) {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction ours = {};
        ours.sa_sigaction = on_fault;
        ours.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &ours, &before[0]);
        sigaction(SIGBUS, &ours, &before[1]);
    });
    sigjmp_buf here;
    if (sigsetjmp(here, 1)) {
        way_back = nullptr;
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    way_back = &here;
    touch();
    way_back = nullptr;
    return CUDA_SUCCESS;
}

CUresult copy(uintptr_t target, uintptr_t source, size_t size, bool to_device, bool from_device) {
    {
        Lock lock(state().mutex);
        if (!(to_device ? readable(target, size) : usable_by_host(target, size)))
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        if (!(from_device ? readable(source, size) : usable_by_host(source, size)))
            return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return guarded([&] {
        memmove(reinterpret_cast<void *>(target), reinterpret_cast<void *>(source), size);
    });
}

// ---- streams -----------------------------------------------------------------------------------

CUresult enqueue(const StreamRef &stream, Work work, std::vector<Position> after) {
    if (stream->capture) {
        stream->capture->works.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    State &all = state();
    bool blocking = !(stream->flags & CU_STREAM_NON_BLOCKING);
    if (stream == all.legacy) {
        for (auto &[handle, other] : all.streams.live)
            if (!(other->flags & CU_STREAM_NON_BLOCKING)) after.push_back({other, other->queued});
    } else if (blocking) {
        after.push_back({all.legacy, all.legacy->queued});
    }
    stream->operations.push_back({std::move(work), std::move(after)});
    ++stream->queued;
    return CUDA_SUCCESS;
}

CUresult drain(Lock &lock, const StreamRef &stream, uint64_t until) {
    State &all = state();
    while (stream->done < until) {
        if (all.sticky) {  // a broken context runs nothing more
            stream->operations.clear();
            stream->done = stream->queued;
            break;
        }
        if (stream->running) {  // another thread is at it
            all.changed.wait(lock);
            continue;
        }
        Operation next = std::move(stream->operations.front());
        stream->operations.pop_front();
        stream->running = true;
        for (auto &position : next.after) drain(lock, position.stream, position.ticket);
        CUresult result = all.sticky;
        if (!result) {
            lock.unlock();
            result = next.work();
            lock.lock();
        }
        failed(result);
        stream->running = false;
        if (stream->done < stream->queued) ++stream->done;
        all.changed.notify_all();
    }
    return all.sticky;
}

CUresult step(Lock &lock, const StreamRef &stream) {
    if (stream->running || stream->done == stream->queued) return state().sticky;
    return drain(lock, stream, stream->done + 1);
}

CUresult drain_all(Lock &lock) {
    State &all = state();
    std::vector<StreamRef> streams = all.zombies;
    for (auto &[handle, stream] : all.streams.live) streams.push_back(stream);
    streams.push_back(all.legacy);
    for (auto &stream : streams) drain(lock, stream, stream->queued);
    all.zombies.clear();
    return all.sticky;
}

bool capturing_here() {
    bool found = false;
    for (auto &[handle, stream] : state().streams.live) {
        if (!stream->capture || stream->capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        bool mine = stream->capture->thread == std::this_thread::get_id();
        if (mine || stream->capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL)
            found = stream->capture->invalid = true;
    }
    return found;
}

void destroy_context() {
    State &all = state();
    for (auto &[kind, count] : alive())
        if (count) all.leaked[kind] += count;
    size_t pending = all.legacy->queued - all.legacy->done;
    for (auto &[handle, stream] : all.streams.live) pending += stream->queued - stream->done;
    for (auto &stream : all.zombies) pending += stream->queued - stream->done;
    if (pending && !all.sticky)
        note("context released with " + std::to_string(pending) + " pieces of work not waited for");
    all.streams.live.clear();
    all.zombies.clear();
    all.events.live.clear();
    for (auto &[handle, module] : all.modules.live) dlclose(module->library);
    all.modules.live.clear();
    all.functions.live.clear();
    all.graphs.live.clear();
    all.executables.live.clear();
    all.arrays.live.clear();
    all.textures.live.clear();
    all.images.live.clear();
    while (!all.memory.empty()) release(all.memory.begin()->first, all.memory.begin()->second.kind);
    all.legacy.reset();
    all.context = nullptr;
    all.sticky = CUDA_SUCCESS;
}

}  // namespace standin
