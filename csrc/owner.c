/* The owner's requests, and the answers. */
#include "guard.h"

#include <sys/file.h>
#include <sys/xattr.h>

/* Raising the limit by less starts no fresh delay. */
#define REAL_RAISE (1 << 20)

/* File descriptors that are left free, for walks through the groups below when things are put back. */
#define RESERVE (2 * MEMCG_DEPTH + 16)

#define PASSED 2 /* the most file descriptors that a request brings */

static int owner_fd = -1;
static uint32_t owner_user;

/* What was received with a request; closed after it, but for what somebody took. */
static int passed[PASSED];

static int take(int index)
{
    int fd = passed[index];
    passed[index] = -1;
    return fd;
}

/* Setting a hold up, and taking it down. */

void clear(struct hold *hold)
{
    *hold = (struct hold){
        .directory = -1, .oom_control = -1, .switch_file = -1, .usage = -1, .limit = -1, .failcnt = -1, .parent = -1,
        .memsw_usage = -1, .memsw_limit = -1, .ooms = -1, .pressure = -1, .high = -1, .freeze = -1, .events = -1,
        .local = -1, .core = -1, .stat = -1, .tasks = -1, .reclaim = -1, .swap = -1, .swap_limit = -1, .doorbell = -1, .victim = -1, .watch = -1,
        .due = NEVER, .deadline = NEVER,
    };
}

static long set_up(struct hold *hold, const struct memcg_request *request, struct memcg_reply *reply,
                   enum memcg_step *step)
{
    long error = open_group(hold, passed[0], step);
    if (error < 0)
        return error;
    hold->doorbell = take(1);

    *step = MEMCG_STEP_LOCK;
    error = sys(SYS_flock, hold->directory, LOCK_EX | LOCK_NB);
    if (error < 0 && !(error == -EWOULDBLOCK && (request->flags & MEMCG_FOREIGN_LOCK)))
        return error;
    *step = MEMCG_STEP_MARK;
    if (is_marked(hold)) /* before the group's state: what an abandoned hold has left is to be repaired */
        return -EEXIST;
    if ((error = hold->mechanism->check(hold, reply, step)) < 0)
        return error;
    *step = MEMCG_STEP_MARK;
    if ((error = set_mark(hold, XATTR_CREATE)) < 0)
        return error;
    hold->in_use = 1; /* from here on it is put back, whatever happens */
    *step = MEMCG_STEP_WATCH;
    if ((error = watch(hold)) < 0)
        return error;
    return hold->mechanism->begin(hold, step);
}

static void take_down(struct hold *hold)
{
    if (hold->in_use) {
        put_back(hold);
        leave(hold);
    } else if (hold->due == NEVER) { /* and has not ended by itself just now */
        close_group(hold);
    }
    publish(hold, MEMCG_FREE);
}

/* Whether a new hold can have it: an earlier one may still look after late sleepers, or wait for its worker. */
static bool is_free(const struct hold *hold)
{
    return state_of(hold) == MEMCG_FREE && hold->oom_control < 0 && hold->reclaim < 0;
}

/* Whether the numbers left are enough, also for putting things back. */
static bool has_descriptors(int highest)
{
    struct rlimit limit;
    return sys(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) < 0 || (uint64_t)highest + RESERVE < limit.rlim_cur;
}

/* Requests. */

static bool is_time(int64_t time)
{
    return time >= 0 && time < NEVER;
}

static void hold_group(const struct memcg_request *request, struct memcg_reply *reply)
{
    struct hold *hold = shared->holds;
    while (hold < shared->holds + MEMCG_HOLDS && !is_free(hold))
        hold++;
    reply->step = MEMCG_STEP_SLOT;
    if (hold == shared->holds + MEMCG_HOLDS) {
        reply->error = ENOSPC;
        return;
    }
    enum memcg_step step = MEMCG_STEP_MESSAGE;
    long error = -EPROTO;
    clear(hold);
    if (passed[0] >= 0 && passed[1] >= 0 && is_time(request->delay) && is_time(request->total) &&
        request->bytes >= 0) {
        hold->flags = request->flags;
        hold->delay = request->delay ? request->delay : NEVER;
        hold->total = request->total ? request->total : NEVER;
        hold->wanted_headroom = request->bytes;
        hold->path = request->path;
        step = MEMCG_STEP_FILES;
        error = has_descriptors(passed[1] + 16) ? set_up(hold, request, reply, &step) : -EMFILE;
    }
    if (error < 0)
        take_down(hold);
    reply->error = (int32_t)-error;
    reply->step = error < 0 ? step : MEMCG_STEP_NONE;
    reply->slot = (uint32_t)(hold - shared->holds);
    reply->kernel = hold->kernel_delay;
}

static void raise_for(struct hold *hold, const struct memcg_request *request, struct memcg_reply *reply)
{
    int64_t former = 0, raised = 0, now = monotonic();
    reply->step = MEMCG_STEP_LIMIT;
    if (request->bytes <= 0 || request->bytes >= UNLIMITED) {
        reply->error = EPROTO;
        return;
    }
    read_number(hold->limit, &former);
    long error = hold->mechanism->raise_limit(hold, request->bytes, request->flags & MEMCG_BY,
                                              request->flags & MEMCG_UNTIL_RESOLVED, &raised);
    reply->error = (int32_t)-error;
    reply->bytes = raised;
    reply->done = error == 0;
    if (error == 0 && (former >= UNLIMITED ? request->bytes : raised - former) >= REAL_RAISE)
        restart_delay(hold, now);
}

static void wake(struct hold *hold, struct memcg_reply *reply)
{
    reply->step = MEMCG_STEP_LIMIT;
    long error = hold->mechanism->wake(hold);
    reply->error = (int32_t)-error;
    reply->done = error == 0;
}

static void kill_victim(struct hold *hold, struct memcg_reply *reply)
{
    reply->step = MEMCG_STEP_SIGNAL;
    long error = sys(SYS_pidfd_send_signal, passed[0], SIGKILL, NULL, 0);
    reply->error = (int32_t)-error;
    reply->done = error == 0;
    if (error < 0)
        return;
    sys_close(&hold->victim);
    hold->victim = take(0);
    hold->killed_at = monotonic();
}

/* The OOM in hand is what an action is about; with none, or when the delay has run out, there is nothing to do. */
static void act(struct hold *hold, const struct memcg_request *request, struct memcg_reply *reply)
{
    if (state_of(hold) != MEMCG_OOM)
        return;
    switch (request->kind) {
    case MEMCG_RAISE:
        raise_for(hold, request, reply);
        break;
    case MEMCG_WAKE:
        wake(hold, reply);
        break;
    case MEMCG_KILL:
        kill_victim(hold, reply);
        break;
    default:
        hold->mechanism->expire(hold);
        reply->done = state_of(hold) == MEMCG_EXPIRED;
    }
}

/* An owner that has become another user since may end what it has begun, and no longer do as we may. */
static bool is_allowed(uint32_t kind, uint32_t user)
{
    return user == owner_user || kind == MEMCG_RELEASE || kind == MEMCG_LOOK || kind == MEMCG_DELAY ||
           kind == MEMCG_EXPIRE;
}

static void answer(const struct memcg_request *request, struct memcg_reply *reply, uint32_t user)
{
    reply->step = MEMCG_STEP_MESSAGE;
    reply->error = EPERM;
    if (!is_allowed(request->kind, user))
        return;
    reply->error = EPROTO;
    if (request->kind == MEMCG_HOLD) {
        hold_group(request, reply);
        return;
    }
    if (request->slot >= MEMCG_HOLDS || records[request->slot].state == MEMCG_FREE)
        return;
    struct hold *hold = &shared->holds[request->slot];
    reply->slot = request->slot;
    reply->step = MEMCG_STEP_NONE;
    reply->error = 0;
    /* What the kernel has signalled meanwhile comes first: an owner may have heard of an OOM before us. */
    if (hold->in_use)
        look(hold, monotonic());
    switch (request->kind) {
    case MEMCG_RELEASE:
        take_down(hold);
        return;
    case MEMCG_LOOK:
        if (hold->in_use && (request->flags & MEMCG_FINAL))
            hold->mechanism->tell_expiry(hold);
        return;
    case MEMCG_DELAY:
        if (is_time(request->delay)) {
            if (hold->in_use)
                set_delay(hold, request->delay ? request->delay : NEVER, monotonic());
            return;
        }
        break;
    case MEMCG_KILL:
        if (passed[0] < 0)
            break;
        /* fall through */
    case MEMCG_RAISE:
    case MEMCG_WAKE:
    case MEMCG_EXPIRE:
        if (hold->in_use)
            act(hold, request, reply);
        return;
    default:
        break;
    }
    reply->step = MEMCG_STEP_MESSAGE;
    reply->error = EPROTO;
}

/* The socket. */

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * 8) + CMSG_SPACE(sizeof(struct ucred))];
};

/* Takes the file descriptors out of a message, and closes those that are too many; returns who sent it. */
static struct ucred unpack(struct msghdr *message)
{
    struct ucred sender = {.pid = -1, .uid = UINT32_MAX, .gid = UINT32_MAX};
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET)
            continue;
        size_t size = part->cmsg_len - CMSG_LEN(0);
        if (part->cmsg_type == SCM_CREDENTIALS && size >= sizeof(struct ucred)) {
            sender = *(const struct ucred *)(const void *)CMSG_DATA(part);
        } else if (part->cmsg_type == SCM_RIGHTS) {
            const int *fds = (const int *)(const void *)CMSG_DATA(part);
            for (size_t i = 0; i < size / sizeof *fds; i++) {
                int fd = fds[i];
                if (i < PASSED && passed[i] < 0)
                    passed[i] = fd;
                else
                    sys_close(&fd);
            }
        }
    }
    return sender;
}

static void send_reply(const struct memcg_reply *reply, int fd)
{
    union control control = {.bytes = {0}};
    struct iovec body = {.iov_base = (void *)(uintptr_t)reply, .iov_len = sizeof *reply};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
        control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET,
                                          .cmsg_type = SCM_RIGHTS};
        *(int *)(void *)CMSG_DATA(&control.header) = fd;
    }
    long sent = sys(SYS_sendmsg, SOCKET, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* An owner that waits and gets no answer takes the guard to be lost. Then it shall be right about that. */
    if (sent < 0 && sent != -EAGAIN)
        sys(SYS_shutdown, SOCKET, SHUT_RDWR);
}

static bool is_page(int64_t bytes)
{
    return bytes >= 4096 && bytes <= 65536 && (bytes & (bytes - 1)) == 0;
}

/* The first request, which says who the owner is. */
static void meet_owner(const struct memcg_request *request, struct memcg_reply *reply, struct ucred sender)
{
    reply->step = MEMCG_STEP_MESSAGE;
    reply->error = EPROTO;
    if (request->kind != MEMCG_HELLO || passed[0] < 0 || !is_page(request->bytes) || request->slot < 1 ||
        request->slot > 65536)
        return;
    long error = wait_for(passed[0], EPOLLIN, OWNER_GONE);
    if (error < 0) {
        reply->error = (int32_t)-error;
        return;
    }
    owner_fd = take(0);
    shared->page = request->bytes;
    shared->slack = 64 * shared->page * request->slot;
    shared->owner = sender.pid;
    owner_user = sender.uid;
    reply->step = MEMCG_STEP_NONE;
    reply->error = 0;
    reply->locked = shared->locked;
    reply->guard = shared->guard;
    reply->keeper = shared->keeper;
    reply->warden = shared->warden;
}

/* For a guard that cannot start: the owner hears why. */
void refuse(long error)
{
    struct memcg_request request;
    struct memcg_reply reply = {.error = (int32_t)-error, .step = MEMCG_STEP_NONE};
    sys(SYS_recvfrom, SOCKET, &request, sizeof request, 0, NULL, NULL);
    send_reply(&reply, -1);
}

/* One request, so that whoever sends many keeps no deadline waiting. */
void serve(void)
{
    struct memcg_request request = {.kind = 0};
    struct memcg_reply reply = {.error = EPROTO, .step = MEMCG_STEP_MESSAGE};
    union control control;
    struct iovec body = {.iov_base = &request, .iov_len = sizeof request};
    struct msghdr message = {
        .msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    for (int i = 0; i < PASSED; i++)
        passed[i] = -1;
    long got = sys(SYS_recvmsg, SOCKET, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return;
    struct ucred sender = unpack(&message);
    bool sound = got == sizeof request && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    int fd = -1;
    if (owner_fd < 0 && sound) {
        meet_owner(&request, &reply, sender);
        fd = reply.error ? -1 : shared->table;
    } else if (sound && sender.pid == shared->owner) {
        answer(&request, &reply, sender.uid);
    }
    for (int i = 0; i < PASSED; i++)
        sys_close(&passed[i]);
    /* A child that has inherited the socket gets no answer: the owner would take it for its own. */
    if (owner_fd < 0 || sender.pid == shared->owner)
        send_reply(&reply, fd);
}
