/* What the parts of the guest agent share. Ports and protocols: ../README.md. */
#ifndef AGENT_H
#define AGENT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { PORT_STREAM = 7001, PORT_DOWNLOAD = 7002, PORT_JOURNAL = 7003, PORT_WORK = 7004 };
enum { PORT_SOURCE = 7010, PORT_SINK = 7011, PORT_ANSWER = 7012, PORT_DATAGRAMS = 7013 };
enum { LINE_BYTES_MAX = 4096 };

/* CRC-32 as in zlib: crc32(crc32(0, a), b) is the CRC of a followed by b. */
uint32_t crc32(uint32_t crc, const void *data, size_t len);

/* A line reader over a socket; lines lose their newline. */
struct lines {
	int fd;
	size_t at, len;
	char data[LINE_BYTES_MAX];
};
/* The next line, ended by NUL in `out` (LINE_BYTES_MAX), or -1 at the end, on error, or if it is too long. */
int next_line(struct lines *in, char *out);

/* Writes everything; -1 if the peer is gone. */
int send_all(int fd, const void *data, size_t len);

uint64_t now_ns(void);

/* One connection each, until its end. */
void serve_stream(int sock);
void serve_download(int sock);
void serve_journal(int sock);
void serve_work(int sock);
void serve_source(int sock);
void serve_sink(int sock);
void serve_answer(int sock);

/* What flows count, shared by all processes; before any of them. */
void open_flows(void);
/* The datagrams of flows, for ever. */
_Noreturn void serve_datagrams(void);

/* Runs one workload line such as "mem 1024 50" and describes the result in one line; -1 if it is unknown. */
int run_work(const char *line, char *result, size_t size);

/* Workloads that the guest does not come back from; 0 if that was not possible. */
uint64_t work_panic(uint64_t a, uint64_t b);
uint64_t work_hang(uint64_t a, uint64_t b);

/* Reads a file, computes, writes another: exit code 0 if that was possible. */
int compile_one(const char *source, const char *object);

#endif
