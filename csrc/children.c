/* The groups below a held one. They inherit its switch when they are made, and it must not outlive the hold there. */
#include "guard.h"

#include <dirent.h>

/* What getdents64(2) fills in. */
struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* Opens what a walk comes to; it may be gone, but not be missed for want of memory. */
static int open_below(int directory, const char *name, int flags)
{
    long fd = sys_openat(directory, name, flags | O_NOFOLLOW);
    if (fd == -ENOMEM || fd == -ENFILE || fd == -EMFILE)
        shared->missed = 1;
    return (int)fd;
}

/* What a walk does with a child, so many levels below the group: whether to go on below it. */
typedef bool visit(int child, void *data, int depth);

/*
 * Visits the groups below *directory*, each before its children. A child that is just being made is not missed: to list
 * a directory, the kernel waits until a mkdir() in it is done.
 */
static void walk(int directory, visit *visitor, void *data, int depth)
{
    char entries[512] __attribute__((aligned(8)));
    int listing = open_below(directory, ".", O_RDONLY | O_DIRECTORY);
    if (listing < 0)
        return;
    long got;
    while ((got = sys(SYS_getdents64, listing, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got;) {
            const struct entry *entry = (const struct entry *)(entries + at);
            at += entry->size;
            if (entry->type != DT_DIR || equal(entry->name, ".") || equal(entry->name, ".."))
                continue;
            int child = open_below(directory, entry->name, O_RDONLY | O_DIRECTORY);
            if (child < 0)
                continue;
            if (visitor(child, data, depth) && depth < MEMCG_DEPTH)
                walk(child, visitor, data, depth + 1);
            sys_close(&child);
        }
    }
    sys_close(&listing);
}

/* A cgroup directory has two links, and one for each child: most have none. */
static bool has_children(int directory)
{
    struct stat status;
    return sys(SYS_fstat, directory, &status) < 0 || status.st_nlink > 2;
}

/* The same for a directory that is *depth* levels below the group. */
static void walk_below(int directory, visit *visitor, void *data, int depth)
{
    if (!has_children(directory))
        return;
    if (depth < MEMCG_DEPTH)
        walk(directory, visitor, data, depth + 1);
    else
        shared->denied = 1;
}

static bool read_child(int child, struct oom_control *control)
{
    int file = open_below(child, "memory.oom_control", O_RDONLY);
    if (file < 0)
        return false;
    long error = read_oom_control(file, control);
    sys_close(&file);
    return error == 0;
}

static bool add_kills(int child, void *data, int depth)
{
    (void)depth;
    struct oom_control control;
    if (read_child(child, &control))
        *(uint64_t *)data += control.kills;
    return true;
}

/* Victims are counted in their own group only: the kills of the group, of which `own` are its own, and below. */
uint64_t count_kills(const struct hold *hold, uint64_t own)
{
    walk_below(hold->directory, add_kills, &own, 0);
    return own;
}

/* The switch, in a child; a negated errno where it cannot be opened. */
static int open_switch(const struct hold *hold, int child, int flags)
{
    return open_below(child, hold->kernel_delay ? "memory.oom_delay_millisecs" : "memory.oom_control", flags);
}

/* Whether it keeps the killer away. */
static bool is_off(const struct hold *hold, int switch_file)
{
    struct oom_control control;
    int64_t delay;
    long error = hold->kernel_delay ? read_number(switch_file, &delay) : read_oom_control(switch_file, &control);
    if (error == -ENOMEM)
        shared->missed = 1;
    return error == 0 && (hold->kernel_delay ? delay != 0 : control.disabled);
}

static bool spare(int child, void *data, int depth)
{
    (void)depth;
    const struct hold *hold = data;
    int file = open_switch(hold, child, O_RDONLY);
    if (file >= 0 && is_off(hold, file) && !has_mark(child, MARK))
        mark(child, OFF_BEFORE, "1", 0);
    sys_close(&file);
    return false;
}

/* Marks the children whose killer is off already: that is somebody's will, and not inherited from the hold. */
void spare_children(struct hold *hold)
{
    walk_below(hold->directory, spare, hold, 0);
}

/*
 * Switches the killer on in a child that has inherited the hold's switch, but first in those below it: so whoever ends
 * this half-way leaves a way to the rest, through groups that are off.
 */
static bool enable(int child, void *data, int depth)
{
    struct hold *hold = data;
    if (has_mark(child, MARK) || has_mark(child, OFF_BEFORE))
        return false;
    int file = open_switch(hold, child, O_RDONLY);
    bool inherited = file >= 0 && is_off(hold, file);
    sys_close(&file);
    if (inherited || hold->walk_all)
        walk_below(child, enable, hold, depth);
    if (!inherited)
        return false;
    file = open_switch(hold, child, O_WRONLY);
    uint32_t before = hold->walk_all;
    hold->walk_all = 1;
    long error = file < 0 ? file : write_text(file, "0");
    sys_close(&file);
    if (error == -EACCES || error == -EPERM)
        shared->denied = 1;
    else if (error < 0 && error != -ENOENT && error != -ENODEV)
        shared->missed = 1;
    /* From now on it hands nothing on; but it may have done so since, and that is found here only. */
    walk_below(child, enable, hold, depth);
    hold->walk_all = before;
    return false;
}

/* A child that has just appeared, and what may have appeared in it by now. */
void see_to_child(struct hold *hold, const char *name)
{
    shared->missed = 0;
    int child = open_below(hold->directory, name, O_RDONLY | O_DIRECTORY);
    if (child >= 0)
        enable(child, hold, 1);
    sys_close(&child);
    hold->walk_all |= shared->missed; /* and the next look tries again */
}

/* All children: those of whose creation nothing was heard, or who were missed. */
void see_to_children(struct hold *hold)
{
    shared->missed = shared->denied = 0;
    walk_below(hold->directory, enable, hold, 0);
    hold->walk_all = shared->missed;
}

static bool forget(int child, void *data, int depth)
{
    (void)data, (void)depth;
    unmark(child, OFF_BEFORE);
    return false;
}

void forget_children(const struct hold *hold)
{
    walk_below(hold->directory, forget, NULL, 0);
}

static bool add_threads(int group, void *data, int depth)
{
    (void)depth;
    char text[4096];
    int file = open_below(group, "cgroup.threads", O_RDONLY);
    if (file < 0)
        return true;
    /* One number a line. */
    for (long got; (got = sys(SYS_read, file, text, sizeof text)) > 0;)
        for (long i = 0; i < got; i++)
            *(uint64_t *)data += text[i] == '\n';
    sys_close(&file);
    return true;
}

/* How many threads there are in the group and below. */
uint64_t count_threads(const struct hold *hold)
{
    uint64_t threads = 0;
    add_threads(hold->directory, &threads, 0);
    walk_below(hold->directory, add_threads, &threads, 0);
    return threads;
}
