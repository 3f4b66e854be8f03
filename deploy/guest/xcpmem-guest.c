/*
 * xcpmem-guest tells the host how much memory this Linux guest needs, by one key in xenstore.
 *
 * It looks at /proc once a second, and at once when the kernel says that tasks wait for memory. It writes when
 * there is something to say: what is in use moved by more than 16 MiB and 1 % of the guest, or tasks waited for
 * 10 ms more; never more often than once a second, and at least every ten seconds. The format of the key is in
 * api-spec/guest-report.md. Nothing is needed but /proc and the kernel's xenbus device.
 *
 * Build: cc -O2 -static -o xcpmem-guest xcpmem-guest.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KEY "data/xcpmem/1"
#define KEY_PARENT "data/xcpmem"

#define LOOK_MS 1000
#define GAP_MS 1000
#define HEARTBEAT_MS 10000
#define ANSWER_MS 10000

#define CHANGE_KIB (16 * 1024)
#define CHANGE_PART 100 /* or the guest's size over this, whichever is more */
#define STALL_US 10000
#define PSI_TRIGGER "some 10000 1000000" /* 10 ms in any second */
#define FAULT_US 8000 /* what a major fault is taken to cost where the kernel does not count stalls */

#define STALL_ESTIMATED 1
#define STALL_UNKNOWN 2
#define REFAULT_UNKNOWN 4

#define REPORT_BYTES 128
#define PROC_BYTES 32768

/* Message types of xen's public/io/xs_wire.h. */
#define XS_WRITE 11
#define XS_RM 13
#define XS_ERROR 16
#define XS_PAYLOAD_BYTES 4096

struct xs_header {
    uint32_t type, request, transaction, length;
};

/* What one look saw; sizes KiB, times microseconds since boot. */
struct look {
    uint64_t total, available, swapped, stall, refault;
    unsigned flags;
};

static const char *proc = "/proc";
static bool prints;
static int xenbus = -1;
static volatile sig_atomic_t ending;

static void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("xcpmem-guest: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int open_proc(const char *name, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", proc, name);
    return open(path, flags | O_CLOEXEC);
}

/* Reads a file that stays open from its beginning; false if there is none or it is empty. */
static bool read_text(int file, char *text)
{
    ssize_t length = file < 0 ? -1 : pread(file, text, PROC_BYTES - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* Finds "name" at the beginning of a line and reads the number behind it; false if it is not there. */
static bool find(const char *text, const char *name, uint64_t *number)
{
    size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0) {
            *number = strtoull(line + length, NULL, 10);
            return true;
        }
    }
    return false;
}

static uint64_t find_or_none(const char *text, const char *name)
{
    uint64_t number = 0;
    find(text, name, &number);
    return number;
}

static uint64_t less(uint64_t whole, uint64_t part)
{
    return whole > part ? whole - part : 0;
}

/* Kernels before 3.14 do not say what is available. */
static uint64_t available(const char *meminfo)
{
    uint64_t kib;
    if (find(meminfo, "MemAvailable:", &kib))
        return kib;
    kib = find_or_none(meminfo, "Buffers:") + find_or_none(meminfo, "Cached:");
    return find_or_none(meminfo, "MemFree:") + less(kib, find_or_none(meminfo, "Shmem:"));
}

/* Looks at memory and stalls: all that is needed to tell whether there is something to say. */
static bool look_at(int meminfo, int pressure, int vmstat, struct look *seen)
{
    static char text[PROC_BYTES];
    uint64_t faults;

    if (!read_text(meminfo, text) || !find(text, "MemTotal:", &seen->total))
        return false;
    seen->available = available(text);
    seen->swapped = less(find_or_none(text, "SwapTotal:"), find_or_none(text, "SwapFree:"));
    seen->swapped = less(seen->swapped, find_or_none(text, "SwapCached:"));
    seen->stall = seen->refault = 0;
    seen->flags = REFAULT_UNKNOWN;
    /* some avg10=0.00 avg60=0.00 avg300=0.00 total=4711 */
    const char *total = read_text(pressure, text) ? strstr(text, "total=") : NULL;
    if (total && strncmp(text, "some ", 5) == 0) {
        seen->stall = strtoull(total + 6, NULL, 10);
    } else if (read_text(vmstat, text) && find(text, "pgmajfault ", &faults)) {
        seen->stall = faults * FAULT_US;
        seen->flags |= STALL_ESTIMATED;
    } else {
        seen->flags |= STALL_UNKNOWN;
    }
    return true;
}

/* Looks at what had to be read again, which costs more and is only needed for a report. */
static void look_at_refaults(int vmstat, struct look *seen)
{
    static char text[PROC_BYTES];
    static const char *const counters[] = {"workingset_refault_anon ", "workingset_refault_file ",
                                           "workingset_refault "};
    uint64_t page_kib = (uint64_t)sysconf(_SC_PAGESIZE) / 1024, pages;

    if (!read_text(vmstat, text))
        return;
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        if (find(text, counters[i], &pages)) {
            seen->refault += pages * page_kib;
            seen->flags &= ~(unsigned)REFAULT_UNKNOWN;
        }
    }
}

static bool has_news(const struct look *seen, const struct look *said)
{
    int64_t needs = (int64_t)(seen->total - seen->available + seen->swapped);
    int64_t needed = (int64_t)(said->total - said->available + said->swapped);
    int64_t most = (int64_t)(seen->total / CHANGE_PART);
    return llabs(needs - needed) > (most > CHANGE_KIB ? most : CHANGE_KIB) ||
           seen->stall > said->stall + STALL_US;
}

static bool open_xenbus(void)
{
    if (xenbus < 0)
        xenbus = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC);
    if (xenbus < 0)
        xenbus = open("/proc/xen/xenbus", O_RDWR | O_CLOEXEC);
    return xenbus >= 0;
}

static bool read_all(void *where, size_t length)
{
    struct pollfd answer = {.fd = xenbus, .events = POLLIN};
    for (char *at = where; length;) {
        ssize_t done = poll(&answer, 1, ANSWER_MS) > 0 ? read(xenbus, at, length) : -1;
        if (done <= 0)
            return false;
        at += done;
        length -= (size_t)done;
    }
    return true;
}

/* Asks xenstored for something and takes the answer; false, said and closed, if it did not work. */
static bool ask(uint32_t type, const char *payload, size_t length)
{
    char message[sizeof(struct xs_header) + REPORT_BYTES + sizeof KEY], answer[XS_PAYLOAD_BYTES + 1];
    struct xs_header header = {.type = type, .length = (uint32_t)length};

    if (!open_xenbus()) {
        complain("cannot open xenbus: %s", strerror(errno));
        return false;
    }
    memcpy(message, &header, sizeof header);
    memcpy(message + sizeof header, payload, length);
    length += sizeof header;
    if (write(xenbus, message, length) == (ssize_t)length && read_all(&header, sizeof header) &&
        header.length <= XS_PAYLOAD_BYTES && read_all(answer, header.length)) {
        answer[header.length] = '\0';
        if (header.type != XS_ERROR)
            return true;
        complain("xenstore refused: %s", answer);
    } else {
        complain("no answer from xenstore: %s", strerror(errno));
    }
    close(xenbus);
    xenbus = -1;
    return false;
}

static bool say(const struct look *seen, uint64_t number)
{
    char payload[sizeof KEY + REPORT_BYTES] = KEY;
    char *report = payload + sizeof KEY;
    int length = snprintf(report, REPORT_BYTES, "%llu %llu %llu %llu %llu %u", (unsigned long long)number,
                          (unsigned long long)seen->available, (unsigned long long)seen->swapped,
                          (unsigned long long)seen->stall, (unsigned long long)seen->refault, seen->flags);
    if (prints)
        return puts(report) >= 0 && fflush(stdout) == 0;
    return ask(XS_WRITE, payload, sizeof KEY + (size_t)length);
}

/* Lets the kernel wake us when tasks wait for memory; without it, looking once a second must do. */
static int open_trigger(void)
{
    int trigger = open_proc("pressure/memory", O_RDWR | O_NONBLOCK);
    if (trigger >= 0 && write(trigger, PSI_TRIGGER, sizeof PSI_TRIGGER) < 0) {
        close(trigger);
        trigger = -1;
    }
    return trigger;
}

static void end(int number)
{
    (void)number;
    ending = 1;
}

/* Waits until a time, or until tasks wait for memory, or until it shall end. */
static void wait_until(int64_t due_ms, int *trigger, const sigset_t *mask)
{
    int64_t left_ms = due_ms - now_ms();
    struct timespec timeout = {.tv_sec = left_ms / 1000, .tv_nsec = left_ms % 1000 * 1000000};
    struct pollfd alarm = {.fd = *trigger, .events = POLLPRI};

    if (left_ms <= 0)
        timeout = (struct timespec){0};
    if (ppoll(&alarm, 1, &timeout, mask) > 0 && alarm.revents & POLLERR) {
        close(*trigger);
        *trigger = -1;
    }
}

static int report(bool once, int64_t end_ms, const sigset_t *mask)
{
    int meminfo = open_proc("meminfo", O_RDONLY), vmstat = open_proc("vmstat", O_RDONLY);
    int pressure = open_proc("pressure/memory", O_RDONLY), trigger = once || prints ? -1 : open_trigger();
    int64_t said_ms = 0;
    uint64_t number = 0;
    struct look seen, said = {0};

    while (!ending) {
        int64_t looked_ms = now_ms();
        if (!look_at(meminfo, pressure, vmstat, &seen)) {
            complain("%s/meminfo cannot be read", proc);
            return 1;
        }
        bool may_speak = !number || looked_ms - said_ms >= GAP_MS;
        bool must_speak = !number || looked_ms - said_ms >= HEARTBEAT_MS;
        if (must_speak || (may_speak && has_news(&seen, &said))) {
            look_at_refaults(vmstat, &seen);
            bool worked = say(&seen, number + 1);
            if (once)
                return worked ? 0 : 1;
            said_ms = looked_ms;
            number += 1;
            said = seen;
        }
        if (end_ms && now_ms() >= end_ms)
            break;
        /* Within a second of a report there is nothing to look for, whatever the kernel says. */
        if (said_ms + GAP_MS > now_ms())
            wait_until(said_ms + GAP_MS, &(int){-1}, mask);
        else
            wait_until(looked_ms + LOOK_MS, &trigger, mask);
    }
    if (!prints)
        ask(XS_RM, KEY_PARENT, sizeof KEY_PARENT);
    return 0;
}

static void tell_cost(int64_t began_ms)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_ms = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
                    (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
    int64_t took_ms = now_ms() - began_ms;
    complain("%.1f ms of CPU in %.1f s: %.4f %% of a core; %ld KiB resident at most", cpu_ms, took_ms / 1e3,
             100 * cpu_ms / (took_ms ? took_ms : 1), usage.ru_maxrss);
}

static int help(int status)
{
    fputs("usage: xcpmem-guest [--once] [--print] [--for SECONDS] [--proc DIRECTORY]\n"
          "Tells the Xen host, in xenstore's " KEY ", how much memory this guest needs.\n"
          "  --once            report once and end; the report stays\n"
          "  --print           print reports instead of writing them to xenstore\n"
          "  --for SECONDS     end after so long, and say how much CPU time it took\n"
          "  --proc DIRECTORY  read this instead of /proc\n",
          status ? stderr : stdout);
    return status;
}

int main(int count, char **words)
{
    struct sigaction ends = {.sa_handler = end};
    sigset_t mask, before;
    int64_t began_ms = now_ms(), for_ms = 0;
    bool once = false;

    for (int i = 1; i < count; i++) {
        bool has_value = i + 1 < count;
        if (!strcmp(words[i], "--help"))
            return help(0);
        else if (!strcmp(words[i], "--once"))
            once = true;
        else if (!strcmp(words[i], "--print"))
            prints = true;
        else if (!strcmp(words[i], "--for") && has_value && (for_ms = atoll(words[i + 1]) * 1000) > 0)
            i++;
        else if (!strcmp(words[i], "--proc") && has_value)
            proc = words[++i];
        else
            return help(2);
    }
    /* Signals wait until ppoll: between looking at the flag and going to sleep none is lost. */
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, &before);
    sigaction(SIGTERM, &ends, NULL);
    sigaction(SIGINT, &ends, NULL);
    /* A guest that thrashes must still be able to say so: this program's pages stay in memory. */
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0 && !prints)
        complain("its memory may be swapped out: %s", strerror(errno));
    int status = report(once, for_ms ? began_ms + for_ms : 0, &before);
    if (for_ms)
        tell_cost(began_ms);
    return status;
}
