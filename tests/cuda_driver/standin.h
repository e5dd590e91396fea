// What the tests say to the stand-in driver (standin_*, by ctypes), and what a kernel is to it.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// The calls counted, what is alive, what was alive when the last context went, and what was done
// wrong, as JSON. The text is this thread's until it asks again.
const char *standin_report(void);

// From now on the nth call (1 is the next) of `call`, and the `times - 1` after it, return `code`
// and do nothing. `call` is a driver call without its _v2, or "run:NAME" for a kernel's run, which
// then fails when somebody waits for it. A `sticky` failure breaks the context for all that follows.
void standin_fail(const char *call, unsigned nth, unsigned times, int code, int sticky);

// A kernel NAME is this function of a shared library, extern "C", called NAME_host; a module's image
// is the library's absolute path. `params` are the kernel's arguments, laid out like a C struct.
typedef void (*standin_kernel)(const unsigned grid[3], const unsigned block[3], unsigned shared,
                               const void *params);

// What a CUtexObject points to here: rows of an array, for the tex2D of cuda_on_host.h.
struct standin_texture {
    const unsigned char *rows;
    unsigned long long width, height, pitch;  // in elements, rows and bytes
    unsigned channels, bytes;                 // of one element, and of one channel
};

#ifdef __cplusplus
}
#endif
