/* labagent: runs commands inside a host of the lab and carries their input and output.
 *
 * One TCP connection is one command. It is not a login service: it trusts whoever reaches
 * it, and the only way in is the emulator's forwarded port in the lab's own namespace.
 *
 * Frames, both ways: one type byte, a length (u32, little endian), that many bytes.
 *   to the agent:   P ping | E argv, each string ended by NUL | I stdin bytes | C end of stdin
 *   from the agent: P pong | O stdout | R stderr | X exit code (u32) | F could not start: text
 * The exit code is the command's, or 128 + signal. When the connection goes away the
 * command's process group is killed. When the command exits, X follows what it had
 * written; a daemon that it left behind may keep the pipes open and is not waited for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRAME_BYTES_MAX = 1 << 16, ARGS_MAX = 1024 };

struct session {
	int sock;
	pid_t pid;
	int pidfd;
	int in, out, err; /* our ends of the pipes, -1 once closed */
	char pending[FRAME_BYTES_MAX]; /* stdin bytes not yet taken by the command */
	size_t pending_at, pending_len;
};

static int write_all(int fd, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

static int read_all(int fd, void *data, size_t len)
{
	char *at = data;
	while (len > 0) {
		ssize_t n = read(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

static int send_frame(int sock, char type, const void *data, uint32_t len)
{
	char head[5] = { type, len, len >> 8, len >> 16, len >> 24 };
	if (send(sock, head, sizeof head, MSG_MORE * (len > 0)) != sizeof head)
		return -1;
	return write_all(sock, data, len);
}

static int read_frame(int sock, char *type, char *data, uint32_t *len)
{
	unsigned char head[5];
	if (read_all(sock, head, sizeof head) < 0)
		return -1;
	*type = head[0];
	*len = head[1] | head[2] << 8 | head[3] << 16 | (uint32_t)head[4] << 24;
	return *len > FRAME_BYTES_MAX ? -1 : read_all(sock, data, *len);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Splits NUL-ended strings; returns how many, or -1 if there are none or too many. */
static int split_args(char *data, uint32_t len, char **argv)
{
	int count = 0;
	if (len == 0 || data[len - 1] != 0)
		return -1;
	for (char *at = data; at < data + len; at += strlen(at) + 1) {
		if (count == ARGS_MAX)
			return -1;
		argv[count++] = at;
	}
	argv[count] = NULL;
	return count;
}

static void run_child(char **argv, int in, int out, int err, int report)
{
	setsid();
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	signal(SIGPIPE, SIG_DFL);
	execvp(argv[0], argv);
	int why = errno;
	write_all(report, &why, sizeof why);
	_exit(127);
}

/* Starts the command; returns 0, or the errno with which it could not start. */
static int start(struct session *s, char **argv)
{
	int in[2], out[2], err[2], report[2], why = 0;
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(report, O_CLOEXEC))
		return errno;
	s->pid = fork();
	if (s->pid < 0)
		return errno;
	if (s->pid == 0)
		run_child(argv, in[0], out[1], err[1], report[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	close(report[1]);
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
	fcntl(s->in, F_SETFL, O_NONBLOCK);
	fcntl(s->out, F_SETFL, O_NONBLOCK);
	fcntl(s->err, F_SETFL, O_NONBLOCK);
	if (read_all(report[0], &why, sizeof why) < 0)
		why = 0;
	close(report[0]);
	s->pidfd = syscall(SYS_pidfd_open, s->pid, 0);
	return why;
}

/* Passes on what the pipe holds now; returns -1 if the client is gone. */
static int forward(int sock, int *pipe_fd, char type)
{
	static char data[FRAME_BYTES_MAX];
	if (*pipe_fd < 0)
		return 0;
	for (int round = 0; round < 64; round++) {
		ssize_t n = read(*pipe_fd, data, sizeof data);
		if (n == 0)
			close_fd(pipe_fd);
		if (n <= 0)
			return 0;
		if (send_frame(sock, type, data, n) < 0)
			return -1;
	}
	return 0;
}

static void feed(struct session *s)
{
	ssize_t n = write(s->in, s->pending + s->pending_at, s->pending_len);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0) {
		close_fd(&s->in);
		s->pending_len = 0;
		return;
	}
	s->pending_at += n;
	s->pending_len -= n;
}

static int take_input(struct session *s)
{
	char type;
	uint32_t len;
	if (read_frame(s->sock, &type, s->pending, &len) < 0)
		return -1;
	if (type == 'C')
		close_fd(&s->in);
	if (type == 'I' && s->in >= 0) {
		s->pending_at = 0;
		s->pending_len = len;
	}
	return 0;
}

/* Carries data until the command has exited (0) or the client is gone (-1). */
static int carry(struct session *s)
{
	for (;;) {
		struct pollfd fds[] = {
			{ s->sock, s->pending_len ? POLLRDHUP : POLLIN | POLLRDHUP, 0 },
			{ s->pending_len ? s->in : -1, POLLOUT, 0 },
			{ s->out, POLLIN, 0 },
			{ s->err, POLLIN, 0 },
			{ s->pidfd, POLLIN, 0 },
		};
		if (poll(fds, 5, -1) < 0 && errno != EINTR)
			return -1;
		if (fds[1].revents)
			feed(s);
		if (fds[2].revents && forward(s->sock, &s->out, 'O') < 0)
			return -1;
		if (fds[3].revents && forward(s->sock, &s->err, 'R') < 0)
			return -1;
		if (fds[4].revents)
			return 0;
		if (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR))
			return -1;
		if (fds[0].revents & POLLIN && take_input(s) < 0)
			return -1;
	}
}

static void finish(struct session *s)
{
	int status = 0;
	uint32_t code;
	forward(s->sock, &s->out, 'O');
	forward(s->sock, &s->err, 'R');
	waitpid(s->pid, &status, 0);
	code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	send_frame(s->sock, 'X', &code, sizeof code);
}

static void fail(struct session *s, const char *what, int why)
{
	char text[256];
	int len = snprintf(text, sizeof text, "%.180s: %s", what, strerror(why));
	send_frame(s->sock, 'F', text, len);
}

static void execute(struct session *s, char *request, uint32_t len)
{
	static char *argv[ARGS_MAX + 1];
	if (split_args(request, len, argv) < 0) {
		fail(s, "argument list", E2BIG);
		return;
	}
	int why = start(s, argv);
	if (why) {
		fail(s, argv[0], why);
		return;
	}
	if (carry(s) < 0)
		kill(-s->pid, SIGKILL);
	else
		finish(s);
}

static void serve(int sock)
{
	static struct session s = { .in = -1, .out = -1, .err = -1, .pidfd = -1 };
	static char request[FRAME_BYTES_MAX];
	char type;
	uint32_t len;
	s.sock = sock;
	while (read_frame(sock, &type, request, &len) == 0) {
		if (type == 'P' && send_frame(sock, 'P', NULL, 0) < 0)
			return;
		if (type == 'E') {
			execute(&s, request, len);
			return;
		}
	}
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(sock, SOL_SOCKET, SO_BINDTODEVICE, "mgmt", sizeof "mgmt");
	if (bind(sock, (struct sockaddr *)&at, sizeof at) < 0 || listen(sock, 64) < 0) {
		perror("labagent: listen");
		exit(1);
	}
	return sock;
}

int main(int argc, char **argv)
{
	/* What started us has a shorter one. */
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	int on = 1, sock = listen_on(argc > 1 ? atoi(argv[1]) : 7000);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	printf("labagent: ready\n");
	fflush(stdout);
	for (;;) {
		int peer = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
		if (peer < 0)
			continue;
		setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		if (fork() == 0) {
			close(sock);
			signal(SIGCHLD, SIG_DFL);
			serve(peer);
			_exit(0);
		}
		close(peer);
	}
}
