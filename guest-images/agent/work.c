/* Workloads for measurement. Each does a given amount of work and reports how long it took by the
 * guest's own clock: "WORK NAME units=N ns=T check=C", where C depends on all that was computed. */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
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

/* a: MiB of a new file, written b KiB at a time (1024 if 0) and then forced to the disk. Nothing in it can be compressed, and no
 * two files are alike. */
static uint64_t work_bulk(uint64_t a, uint64_t b)
{
	static uint64_t block[1024 * 1024 / 8], stamp;
	size_t bytes = (b && b <= 1024 ? b : 1024) * 1024;
	uint64_t x = 88172645463325252ull;
	int bad, file = open("/data/bulk", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (block[0] == 0)
		for (size_t i = 0; i < sizeof block / 8; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			block[i] = x ^= x << 17;
		}
	bad = file < 0;
	for (uint64_t done = 0; done < a << 20 && !bad; done += bytes) {
		stamp++;
		for (size_t i = 0; i < bytes / 8; i += 64)
			block[i] = stamp << 20 | i;
		bad = write(file, block, bytes) != (ssize_t)bytes;
	}
	bad = bad || fsync(file) < 0;
	if (file >= 0)
		close(file);
	return !bad;
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

enum { TEXT_BYTES = 64 * 1024, SCREEN_BYTES = 24 * 80, KEY_NS = 100000000, KEYS_A_SAVE = 32 };

/* What an editor does for a key: the character goes into its text, the line is looked through for words, the screen is
 * drawn anew into the terminal. */
static uint64_t edit_key(char *text, uint64_t key, int terminal)
{
	static char screen[SCREEN_BYTES];
	uint64_t at = key * 61 % (TEXT_BYTES - SCREEN_BYTES), words = 0;
	memmove(text + at + 1, text + at, TEXT_BYTES - at - 1);
	text[at] = key % 9 ? 'a' + key % 26 : ' ';
	for (uint64_t i = 0; i < SCREEN_BYTES; i++) {
		screen[i] = text[at + i] ? text[at + i] : '.';
		words += screen[i] == ' ';
	}
	return write(terminal, screen, sizeof screen) == sizeof screen ? words + 1 : 0;
}

static int save(const char *path, const void *data, size_t bytes, int durably)
{
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int bad = file < 0 || write(file, data, bytes) != (ssize_t)bytes || (durably && fsync(file) < 0);
	if (file >= 0)
		close(file);
	return bad;
}

/* a: keys of a scripted editing session, 100 ms after each other has been dealt with; its text is saved every 32 keys. */
static uint64_t work_edit(uint64_t a, uint64_t b)
{
	static char text[TEXT_BYTES];
	uint64_t sum = 1, got;
	int terminal = open("/dev/null", O_WRONLY | O_CLOEXEC);
	(void)b;
	for (uint64_t key = 1; key <= a; key++) {
		struct timespec pause = { 0, KEY_NS };
		nanosleep(&pause, NULL);
		got = edit_key(text, key, terminal);
		if (got == 0 || (key % KEYS_A_SAVE == 0 && save("/data/edited", text, sizeof text, 1))) {
			sum = 0;
			break;
		}
		sum += got;
	}
	close(terminal);
	return sum;
}

enum { SYMBOLS = 1 << 16, OBJECT_BYTES = 64 * 1024 };

/* What a compiler does for a file: reads it, keeps what it saw in fresh memory, computes, writes an object file. */
int compile_one(const char *source, const char *object)
{
	static char out[OBJECT_BYTES];
	uint64_t *table = calloc(SYMBOLS, sizeof *table), hash = 14695981039346656037ull;
	char in[PAGE_BYTES];
	int file = open(source, O_RDONLY | O_CLOEXEC);
	if (!table || file < 0)
		return 1;
	for (ssize_t n; (n = read(file, in, sizeof in)) > 0;)
		for (ssize_t i = 0; i < n; i++) {
			hash = (hash ^ (unsigned char)in[i]) * 1099511628211ull;
			table[hash >> 48] += hash;
		}
	close(file);
	for (int pass = 0; pass < 16; pass++)
		for (int i = 0; i < SYMBOLS; i++) {
			hash = (hash ^ table[i]) * 1099511628211ull;
			out[i % OBJECT_BYTES] ^= (char)(hash >> 56);
		}
	free(table);
	return save(object, out, sizeof out, 0);
}

/* a: files of 64 KiB compiled, each by a process of its own that is waited for. */
static uint64_t work_compile(uint64_t a, uint64_t b)
{
	static char source[TEXT_BYTES];
	char object[32];
	(void)b;
	for (size_t i = 0; i < sizeof source; i++)
		source[i] = (char)(i * i >> 3);
	if (save("/data/source", source, sizeof source, 0))
		return 0;
	/* The server that this may run in does not wait for its children. */
	signal(SIGCHLD, SIG_DFL);
	for (uint64_t i = 0; i < a; i++) {
		int status = 0;
		snprintf(object, sizeof object, "/data/object-%u", (unsigned)(i % 16));
		pid_t child = fork();
		if (child == 0) {
			execl("/proc/self/exe", "agent", "compile", "/data/source", object, (char *)NULL);
			_exit(1);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
			return 0;
	}
	return 1;
}

static const struct work works[] = {
	{ "cpu", work_cpu },
	{ "mem", work_mem },
	{ "fsync", work_fsync },
	{ "bulk", work_bulk },
	{ "dread", work_dread },
	{ "edit", work_edit },
	{ "compile", work_compile },
	{ "panic", work_panic },
	{ "hang", work_hang },
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
