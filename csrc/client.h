/* The library's side of the guard: starting it, asking it, and reading what it has to tell. */
#ifndef MEMCG_CLIENT_H
#define MEMCG_CLIENT_H

#include "guard_protocol.h"

/* Each returns a negated errno where it fails. */
int memcg_guard_socket(int *guards_end);
int memcg_guard_start(const char *program, int guards_end);
void memcg_guard_keep_from_children(int socket, int stand_in);
int memcg_guard_call(int socket, const struct memcg_request *request, const int *fds, int count,
                     struct memcg_reply *reply, int *fd, int milliseconds);
void memcg_guard_hang_up(int socket);
const void *memcg_map_table(int fd);
void memcg_unmap_table(const void *table);
int memcg_read_record(const void *table, uint32_t slot, struct memcg_record *record);

#endif
