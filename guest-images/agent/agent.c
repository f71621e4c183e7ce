/* The guest agent: small servers and workloads that tests talk to.
 *
 *   agent serve            listens on all ports, one process for each connection
 *   agent work LINE...     runs workloads in order and prints a result line for each
 *   agent compile IN OUT   what workload `compile` starts for each file
 *
 * An ordinary program in an ordinary guest: it knows nothing of the machine under it. What it
 * answers depends on everything it was sent before on that connection, so state that was lost,
 * repeated or altered is seen by the client at the next answer.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct service {
	uint16_t port;
	void (*serve)(int sock);
};

static const struct service services[] = {
	{ PORT_STREAM, serve_stream },
	{ PORT_DOWNLOAD, serve_download },
	{ PORT_JOURNAL, serve_journal },
	{ PORT_WORK, serve_work },
	{ PORT_SOURCE, serve_source },
	{ PORT_SINK, serve_sink },
	{ PORT_ANSWER, serve_answer },
};
enum { SERVICES = sizeof services / sizeof services[0] };

uint32_t crc32(uint32_t crc, const void *data, size_t len)
{
	static uint32_t table[256];
	const unsigned char *at = data;
	if (table[1] == 0) {
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t c = i;
			for (int bit = 0; bit < 8; bit++)
				c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
			table[i] = c;
		}
	}
	crc = ~crc;
	while (len--)
		crc = table[(crc ^ *at++) & 255] ^ crc >> 8;
	return ~crc;
}

int next_line(struct lines *in, char *out)
{
	for (size_t used = 0; used < LINE_BYTES_MAX;) {
		if (in->at == in->len) {
			ssize_t n = read(in->fd, in->data, sizeof in->data);
			if (n <= 0)
				return -1;
			in->at = 0;
			in->len = n;
		}
		char byte = in->data[in->at++];
		out[used++] = byte == '\n' ? 0 : byte;
		if (byte == '\n')
			return used - 1;
	}
	return -1;
}

int send_all(int fd, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n <= 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(sock, (struct sockaddr *)&at, sizeof at) < 0 || listen(sock, 64) < 0) {
		perror("agent: listen");
		exit(1);
	}
	return sock;
}

static void accept_one(int listener, void (*serve)(int))
{
	int on = 1, sock = accept(listener, NULL, NULL);
	if (sock < 0)
		return;
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (fork() == 0) {
		serve(sock);
		_exit(0);
	}
	close(sock);
}

static _Noreturn void serve_all(void)
{
	struct pollfd fds[SERVICES];
	for (int i = 0; i < SERVICES; i++)
		fds[i] = (struct pollfd){ listen_on(services[i].port), POLLIN, 0 };
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	open_flows();
	if (fork() == 0)
		serve_datagrams();
	printf("agent: serving\n");
	fflush(stdout);
	for (;;) {
		poll(fds, SERVICES, -1);
		for (int i = 0; i < SERVICES; i++)
			if (fds[i].revents)
				accept_one(fds[i].fd, services[i].serve);
	}
}

static int work_all(char **lines)
{
	char result[256];
	for (; *lines; lines++) {
		if (run_work(*lines, result, sizeof result) < 0) {
			fprintf(stderr, "agent: unknown workload: %s\n", *lines);
			return 2;
		}
		puts(result);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "serve") == 0)
		serve_all();
	if (argc > 2 && strcmp(argv[1], "work") == 0)
		return work_all(argv + 2);
	if (argc == 4 && strcmp(argv[1], "compile") == 0)
		return compile_one(argv[2], argv[3]);
	fprintf(stderr, "usage: agent serve | agent work LINE... | agent compile IN OUT\n");
	return 2;
}
