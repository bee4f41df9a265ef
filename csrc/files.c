/* Reading and writing files that are open, and the marks on directories. */
#include "guard.h"

/* Text. */

void add(struct text *text, const char *more)
{
    for (; *more && text->length + 1 < sizeof text->bytes; more++)
        text->bytes[text->length++] = *more;
    text->bytes[text->length] = 0;
}

void add_number(struct text *text, int64_t number)
{
    char digits[24], *first = digits + sizeof digits - 1;
    uint64_t rest = number < 0 ? -(uint64_t)number : (uint64_t)number;
    *first = 0;
    do
        *--first = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0)
        *--first = '-';
    add(text, first);
}

/* A decimal number, no more than INT64_MAX; what follows it is in *end. */
int64_t parse(const char *text, const char **end)
{
    int64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        int digit = *text - '0';
        number = number > (INT64_MAX - digit) / 10 ? INT64_MAX : number * 10 + digit;
    }
    *end = text;
    return number;
}

/* The value of a "key value" line, or -1 where there is none. */
int64_t value_of(const char *text, const char *key)
{
    size_t n = length(key);
    for (const char *line = text; *line;) {
        size_t i = 0;
        while (i < n && line[i] == key[i])
            i++;
        const char *end;
        if (i == n && line[i] == ' ') {
            for (line += i; *line == ' ';)
                line++;
            return parse(line, &end);
        }
        while (*line && *line++ != '\n')
            ;
    }
    return -1;
}

/* Files, which are open already. */

long read_text(int fd, char *text, size_t size)
{
    long got;
    do
        got = sys(SYS_pread64, fd, text, size - 1, 0);
    while (got == -EINTR);
    text[got > 0 ? got : 0] = 0;
    return got;
}

long read_number(int fd, int64_t *number)
{
    char text[32];
    const char *end = text;
    long got = read_text(fd, text, sizeof text);
    if (got < 0)
        return got;
    *number = equal(text, "max\n") ? UNLIMITED : parse(text, &end);
    return equal(text, "max\n") || end != text ? 0 : -EIO;
}

long read_oom_control(int fd, struct oom_control *control)
{
    char text[256];
    long got = read_text(fd, text, sizeof text);
    if (got < 0)
        return got;
    control->disabled = control->under_oom = false;
    control->kills = 0;
    /* "key value" lines; keys that are not known are passed over. */
    for (const char *line = text; *line;) {
        char key[32];
        size_t n = 0;
        while (*line && *line != ' ' && *line != '\n') {
            if (n + 1 < sizeof key)
                key[n++] = *line;
            line++;
        }
        key[n] = 0;
        if (*line == ' ')
            line++;
        int64_t value = parse(line, &line);
        while (*line && *line++ != '\n')
            ;
        if (equal(key, "oom_kill_disable"))
            control->disabled = value != 0;
        else if (equal(key, "under_oom"))
            control->under_oom = value != 0;
        else if (equal(key, "oom_kill"))
            control->kills = (uint64_t)value;
    }
    return 0;
}

long write_text(int fd, const char *text)
{
    long written;
    do
        written = sys(SYS_pwrite64, fd, text, length(text), 0);
    while (written == -EINTR);
    return written < 0 ? written : 0;
}

long write_number(int fd, int64_t number)
{
    struct text text = {0, {0}};
    add_number(&text, number);
    return write_text(fd, text.bytes);
}

/* Marks. */

/* The first is root's alone, so that nobody else can leave what root would repair; the second takes Linux 5.7. */
static const char *const name_spaces[] = {"trusted.", "user."};

long mark(int directory, const char *name, const char *value, int flags)
{
    long error = 0;
    for (size_t i = 0; i < 2; i++) {
        struct text full = {0, {0}};
        add(&full, name_spaces[i]);
        add(&full, name);
        error = sys(SYS_fsetxattr, directory, full.bytes, value, length(value), flags);
        if (error != -EOPNOTSUPP && error != -EPERM)
            break;
    }
    return error;
}

bool has_mark(int directory, const char *name)
{
    for (size_t i = 0; i < 2; i++) {
        struct text full = {0, {0}};
        add(&full, name_spaces[i]);
        add(&full, name);
        if (sys(SYS_fgetxattr, directory, full.bytes, NULL, 0) >= 0)
            return true;
    }
    return false;
}

void unmark(int directory, const char *name)
{
    for (size_t i = 0; i < 2; i++) {
        struct text full = {0, {0}};
        add(&full, name_spaces[i]);
        add(&full, name);
        sys(SYS_fremovexattr, directory, full.bytes);
    }
}
