// The stand-in driver's state: memory with guard pages, streams that run when waited for, faults.
#pragma once

#include <condition_variable>
#include <csetjmp>
#include <cstdint>
#include <cuda.h>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace standin {

using Lock = std::unique_lock<std::mutex>;
using Work = std::function<CUresult()>;

constexpr int FRESH = 0xCB;  // what new memory is full of: as float32 it is -26711446

enum class Kind { device, pinned, registered };

struct Block {
    Kind kind;
    size_t size;
    bool mapped;        // pinned memory that kernels may read
    void *pages;        // what was mapped for it, the guard page included; none if registered
    size_t pages_size;
};

struct Stream;
using StreamRef = std::shared_ptr<Stream>;

struct Position {  // the first `ticket` pieces of a stream's work
    StreamRef stream;
    uint64_t ticket;
};

struct Operation {
    Work work;
    std::vector<Position> after;
};

struct Event;

struct Graph {
    std::vector<Work> works;
    std::vector<std::shared_ptr<Event>> marks;  // events that it records when it runs
    bool invalid = false;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    std::thread::id thread;
    StreamRef origin;
};
using GraphRef = std::shared_ptr<Graph>;

struct Stream {
    unsigned flags = 0;
    uint64_t queued = 0, done = 0;
    std::deque<Operation> operations;
    bool running = false;
    GraphRef capture;
};

struct Event {
    unsigned flags = 0;
    Position at;                   // no stream: never recorded
    std::shared_ptr<double> time;  // milliseconds, set when the record runs
    GraphRef capture;
};

struct Module {
    void *library;
    std::string path;
};

struct Function {
    std::string name;
    void *entry;
    void *module;
};

struct Array {
    CUDA_ARRAY3D_DESCRIPTOR form;
    CUdeviceptr memory;
    size_t pitch;
};

template <class T>
struct Table {
    std::map<void *, std::shared_ptr<T>> live;

    std::shared_ptr<T> get(void *handle) const {
        auto found = live.find(handle);
        return found == live.end() ? nullptr : found->second;
    }
};

struct Fault {
    unsigned nth, times;
    CUresult code;
    bool sticky;
};

struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool initialised = false;
    unsigned retained = 0;
    CUcontext context = nullptr;
    CUresult sticky = CUDA_SUCCESS;
    std::map<uintptr_t, Block> memory, dead;
    std::deque<uintptr_t> burials;
    StreamRef legacy;
    Table<Stream> streams;
    std::vector<StreamRef> zombies;  // destroyed before their work was done
    Table<Event> events;
    Table<Module> modules;
    Table<Function> functions;
    Table<Graph> graphs, executables;
    Table<Array> arrays;
    Table<CUdeviceptr> textures;
    Table<void *> images;
    std::map<std::string, uint64_t> calls;
    std::map<std::string, size_t> leaked;
    std::map<std::string, std::deque<Fault>> faults;
    std::vector<std::string> notes;
};

State &state();
void *new_handle();
void note(const std::string &text);
CUresult failed(CUresult code);  // remembers what breaks a context
CUresult fault(const std::string &call);
std::map<std::string, size_t> alive();

uintptr_t allocate(size_t size, Kind kind, bool mapped);
CUresult release(uintptr_t address, Kind kind);
size_t used();
bool readable(uintptr_t address, size_t size);  // by the GPU
bool usable_by_host(uintptr_t address, size_t size);
bool is_pinned(uintptr_t address);

CUresult guarded(const std::function<void()> &touch);  // a fault in it becomes an illegal address
CUresult copy(uintptr_t target, uintptr_t source, size_t size, bool to_device, bool from_device);

CUresult enqueue(const StreamRef &stream, Work work, std::vector<Position> after = {});
CUresult drain(Lock &lock, const StreamRef &stream, uint64_t until);
CUresult step(Lock &lock, const StreamRef &stream);
CUresult drain_all(Lock &lock);
bool capturing_here();  // and what must not be done meanwhile was done: the capture is spoilt
void destroy_context();

}  // namespace standin
