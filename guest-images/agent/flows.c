/* Flows for `outlast bench network`, by the protocol of ../bulk/README.md: streams, requests with answers, datagrams.
 * Whatever does not fit is said on the console and ends the connection. */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATTERN_STEP 0x9e3779b97f4a7c15ull
enum { FLOW_BYTES = 64 << 10, DATAGRAM_MAX = 1472 };
enum { UDP_SEND = 1, UDP_NUMBERED, UDP_COUNTED, UDP_ASK, UDP_TOTALS };

/* Shared by all processes; in the order in which they are told. */
enum { SENT, RECEIVED, ANSWERED, DATAGRAMS_SENT, DATAGRAMS_RECEIVED, TOTALS };
static uint64_t *totals;

void open_flows(void)
{
	totals = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void count(int what, uint64_t n)
{
	__atomic_fetch_add(&totals[what], n, __ATOMIC_RELAXED);
}

static uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	return (seed + index + 1) * PATTERN_STEP;
}

static void fill(uint64_t seed, uint64_t index, uint64_t *data, size_t words)
{
	for (size_t i = 0; i < words; i++)
		data[i] = pattern_word(seed, index + i);
}

static int fits(uint64_t seed, uint64_t index, const uint64_t *data, size_t words)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < words; i++)
		wrong |= data[i] ^ pattern_word(seed, index + i);
	if (wrong)
		printf("agent: CORRUPT flow at byte %" PRIu64 " or after\n", index * 8);
	return !wrong;
}

/* SEED COUNT (0: without end): so many bytes of the stream of ~SEED, a multiple of 8. */
void serve_source(int sock)
{
	static uint64_t data[FLOW_BYTES / 8];
	uint64_t header[2];
	if (recv(sock, header, sizeof header, MSG_WAITALL) != sizeof header)
		return;
	uint64_t left = header[1] ? header[1] / 8 : UINT64_MAX;
	for (uint64_t index = 0; left > 0;) {
		size_t words = left < FLOW_BYTES / 8 ? left : FLOW_BYTES / 8;
		fill(~header[0], index, data, words);
		count(SENT, words * 8);
		if (send_all(sock, data, words * 8) < 0)
			return;
		index += words;
		left -= words;
	}
	while (read(sock, data, sizeof data) > 0)
		;
}

/* SEED and its stream, to the end. */
void serve_sink(int sock)
{
	static uint64_t data[FLOW_BYTES / 8];
	uint64_t seed, index = 0;
	size_t have = 0;
	ssize_t n;
	if (recv(sock, &seed, sizeof seed, MSG_WAITALL) != sizeof seed)
		return;
	while ((n = read(sock, (char *)data + have, sizeof data - have)) > 0) {
		count(RECEIVED, n);
		have += n;
		if (!fits(seed, index, data, have / 8))
			return;
		index += have / 8;
		memmove(data, (char *)data + have / 8 * 8, have % 8);
		have %= 8;
	}
}

/* SEED REQUEST ANSWER, then requests of so many bytes, each answered by as many; multiples of 8. */
void serve_answer(int sock)
{
	static uint64_t data[FLOW_BYTES / 8];
	uint64_t header[3], asked = 0, answered = 0;
	if (recv(sock, header, sizeof header, MSG_WAITALL) != sizeof header)
		return;
	size_t request = header[1] / 8, answer = header[2] / 8;
	if (request < 1 || answer < 1 || request > FLOW_BYTES / 8 || answer > FLOW_BYTES / 8)
		return;
	while (recv(sock, data, request * 8, MSG_WAITALL) == (ssize_t)(request * 8)) {
		if (!fits(header[0], asked, data, request))
			return;
		asked += request;
		fill(~header[0], answered, data, answer);
		answered += answer;
		count(ANSWERED, 1);
		if (send_all(sock, data, answer * 8) < 0)
			return;
	}
}

/* A train of datagrams that somebody asked for. */
struct train {
	struct sockaddr_in to;
	uint64_t token, bytes, left, sent, gap_ns, begun;
};

static void take_datagram(int sock, struct train *train, const uint64_t *in, const struct sockaddr_in *from)
{
	uint64_t out[2 + TOTALS];
	switch (in[0]) {
	case UDP_COUNTED:
		count(DATAGRAMS_RECEIVED, 1);
		break;
	case UDP_ASK:
		out[0] = UDP_TOTALS;
		out[1] = in[1];
		for (int i = 0; i < TOTALS; i++)
			out[2 + i] = __atomic_load_n(&totals[i], __ATOMIC_RELAXED);
		sendto(sock, out, sizeof out, 0, (const struct sockaddr *)from, sizeof *from);
		break;
	case UDP_SEND:
		/* A question that came twice is one. */
		if (in[3] > 0 && train->left > 0 && train->token == in[1])
			break;
		uint64_t bytes = in[2] < 24 ? 24 : in[2] > DATAGRAM_MAX ? DATAGRAM_MAX : in[2];
		*train = (struct train){ *from, in[1], bytes, in[3], 0, in[4], now_ns() };
		break;
	}
}

static void send_next(int sock, struct train *train)
{
	uint64_t out[DATAGRAM_MAX / 8 + 1] = { UDP_NUMBERED, train->token, train->sent };
	if (now_ns() < train->begun + train->sent * train->gap_ns)
		return;
	if (sendto(sock, out, train->bytes, 0, (struct sockaddr *)&train->to, sizeof train->to) < 0)
		return;
	count(DATAGRAMS_SENT, 1);
	train->sent++;
	train->left--;
}

_Noreturn void serve_datagrams(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT_DATAGRAMS) }, from;
	struct train train = { 0 };
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (bind(sock, (struct sockaddr *)&at, sizeof at) < 0) {
		perror("agent: datagrams");
		_exit(1);
	}
	for (;;) {
		uint64_t in[DATAGRAM_MAX / 8 + 1] = { 0 };
		socklen_t len = sizeof from;
		ssize_t n = recvfrom(sock, in, sizeof in, train.left ? MSG_DONTWAIT : 0, (struct sockaddr *)&from, &len);
		if (n >= 16)
			take_datagram(sock, &train, in, &from);
		else if (train.left)
			send_next(sock, &train);
	}
}
