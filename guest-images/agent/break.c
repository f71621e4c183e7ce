/* Ways in which a guest fails by itself. Neither ends well, or at all. */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static int put(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	int bad = file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text);
	if (file >= 0)
		close(file);
	return bad;
}

/* The kernel panics. */
uint64_t work_panic(uint64_t a, uint64_t b)
{
	(void)a, (void)b;
	put("/proc/sysrq-trigger", "c");
	return 0;
}

/* a: processors that nothing else gets any more: a real-time process on each that never waits, past the kernel's own limit. */
uint64_t work_hang(uint64_t a, uint64_t b)
{
	struct sched_param first = { .sched_priority = 99 };
	(void)b;
	if (put("/proc/sys/kernel/sched_rt_runtime_us", "-1") || sched_setscheduler(0, SCHED_FIFO, &first) < 0)
		return 0;
	for (uint64_t i = 1; i < a; i++)
		if (fork() == 0)
			break;
	for (;;)
		__asm__ volatile("pause");
}
