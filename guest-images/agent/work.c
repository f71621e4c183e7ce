/* Workloads for measurement. Each does a given amount of work and reports how long it took by the
 * guest's own clock: "WORK NAME units=N ns=T check=C", where C depends on all that was computed. */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096 };

struct work {
	const char *name;
	/* Does `a` units (with parameter `b`), returns the check value or 0 on failure. */
	uint64_t (*run)(uint64_t a, uint64_t b);
};

/* a: thousands of rounds of integer mixing, nothing but registers. */
static uint64_t work_cpu(uint64_t a, uint64_t b)
{
	uint64_t x = b | 1;
	for (uint64_t i = 0; i < a * 1000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

/* a: rounds, each of which writes one word of each of b pages. */
static uint64_t work_mem(uint64_t a, uint64_t b)
{
	uint64_t sum = 1;
	volatile char *area;
	if (b == 0)
		return 0;
	area = mmap(NULL, b * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return 0;
	for (uint64_t round = 1; round <= a; round++)
		for (uint64_t page = 0; page < b; page++) {
			volatile uint64_t *word = (volatile uint64_t *)(area + page * PAGE_BYTES + page % 64 * 64);
			sum += *word;
			*word = round * 31 + page;
		}
	munmap((void *)area, b * PAGE_BYTES);
	return sum;
}

/* a: blocks of b KiB (4 if 0), each written and forced to the disk before the next. */
static uint64_t work_fsync(uint64_t a, uint64_t b)
{
	size_t bytes = (b && b <= 1024 ? b : 4) * 1024;
	static char block[1024 * 1024];
	int file = open("/data/work", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (file < 0)
		return 0;
	for (uint64_t i = 0; i < a; i++) {
		memset(block, (int)i, bytes);
		if (pwrite(file, block, bytes, i % 256 * bytes) != (ssize_t)bytes || fdatasync(file) < 0) {
			close(file);
			return 0;
		}
	}
	close(file);
	return 1;
}

/* a: blocks of 4 KiB read past the page cache at places spread over the first b MiB (16 if 0) of the disk. */
static uint64_t work_dread(uint64_t a, uint64_t b)
{
	static char block[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
	uint64_t sum = 1, place = 1, blocks = (b ? b : 16) * 256;
	int disk = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (disk < 0)
		return 0;
	for (uint64_t i = 0; i < a; i++) {
		place = place * 6364136223846793005ull + 1442695040888963407ull;
		if (pread(disk, block, sizeof block, (place >> 33) % blocks * PAGE_BYTES) != sizeof block) {
			close(disk);
			return 0;
		}
		sum += (unsigned char)block[0];
	}
	close(disk);
	return sum;
}

static const struct work works[] = {
	{ "cpu", work_cpu },
	{ "mem", work_mem },
	{ "fsync", work_fsync },
	{ "dread", work_dread },
};

int run_work(const char *line, char *result, size_t size)
{
	char name[16];
	uint64_t a = 0, b = 0;
	if (sscanf(line, "%15s %" SCNu64 " %" SCNu64, name, &a, &b) < 2)
		return -1;
	for (size_t i = 0; i < sizeof works / sizeof works[0]; i++) {
		if (strcmp(works[i].name, name) != 0)
			continue;
		uint64_t begun = now_ns(), check = works[i].run(a, b);
		snprintf(result, size, "WORK %s units=%" PRIu64 " ns=%" PRIu64 " check=%016" PRIx64 "%s", name, a, now_ns() - begun, check,
			 check ? "" : " FAILED");
		return 0;
	}
	return -1;
}
