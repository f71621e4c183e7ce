/* The servers that clients check the guest's continuity with. */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define JOURNAL_PATH "/data/journal"
#define STREAM_STEP 0x9e3779b97f4a7c15ull
enum { BLOCK_BYTES = 4096 };

/* Each line in is answered by "COUNT CRC": lines so far and the CRC of all of them together. */
void serve_stream(int sock)
{
	struct lines in = { .fd = sock };
	char line[LINE_BYTES_MAX], answer[64];
	uint64_t count = 0;
	uint32_t crc = 0;
	int len;
	while ((len = next_line(&in, line)) >= 0) {
		crc = crc32(crc, line, len);
		int n = snprintf(answer, sizeof answer, "%" PRIu64 " %08" PRIx32 "\n", ++count, crc);
		if (send_all(sock, answer, n) < 0)
			return;
	}
}

/* Block n of the download: n and n times an odd constant, repeated; any altered byte shows. */
static void fill_block(uint64_t n, uint64_t *block)
{
	for (size_t i = 0; i < BLOCK_BYTES / sizeof *block; i += 2) {
		block[i] = n;
		block[i + 1] = n * STREAM_STEP;
	}
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* "FIRST COUNT RATE": COUNT blocks from FIRST on, at most RATE bytes a second (0: as fast as it goes). */
void serve_download(int sock)
{
	struct lines in = { .fd = sock };
	char line[LINE_BYTES_MAX];
	uint64_t first, count, rate, block[BLOCK_BYTES / 8];
	if (next_line(&in, line) < 0 || sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64, &first, &count, &rate) != 3)
		return;
	uint64_t begun = now_ns();
	for (uint64_t i = 0; i < count; i++) {
		if (rate)
			sleep_until(begun + (uint64_t)((double)i * BLOCK_BYTES * 1e9 / rate));
		fill_block(first + i, block);
		if (send_all(sock, block, sizeof block) < 0)
			return;
	}
}

/* Each line in is appended to the journal file and forced to the disk, then answered by "SIZE CRC":
 * bytes of the file after it, and the CRC of the line. */
void serve_journal(int sock)
{
	struct lines in = { .fd = sock };
	char line[LINE_BYTES_MAX], answer[64];
	int len, file = open(JOURNAL_PATH, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	while (file >= 0 && (len = next_line(&in, line)) >= 0) {
		struct stat at;
		uint32_t crc = crc32(0, line, len);
		line[len] = '\n';
		if (send_all(file, line, len + 1) < 0 || fsync(file) < 0 || fstat(file, &at) < 0)
			break;
		int n = snprintf(answer, sizeof answer, "%jd %08" PRIx32 "\n", (intmax_t)at.st_size, crc);
		if (send_all(sock, answer, n) < 0)
			return;
	}
	send_all(sock, "ERROR\n", 6);
}

/* Each line is a workload; its result line is the answer. */
void serve_work(int sock)
{
	struct lines in = { .fd = sock };
	char line[LINE_BYTES_MAX], result[256];
	while (next_line(&in, line) >= 0) {
		if (run_work(line, result, sizeof result) < 0)
			strcpy(result, "ERROR unknown workload");
		strcat(result, "\n");
		if (send_all(sock, result, strlen(result)) < 0)
			return;
	}
}
