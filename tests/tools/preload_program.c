/* SPDX-License-Identifier: BSD-3-Clause */
#include "preload_program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READ_WRITE (PROT_READ | PROT_WRITE)
#define ACCESS	   (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

extern char **environ;

char path[256];
static char self[256];

int file_open(int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	must(fd >= 0);
	return fd;
}

char *file_map(int fd, int prot)
{
	char *p = mmap(NULL, SIZE, prot, MAP_SHARED, fd, 0);

	must(p != MAP_FAILED);
	return p;
}

char *mapped(int *fd)
{
	int own = file_open(O_RDWR);
	char *p = file_map(own, READ_WRITE);

	if (fd)
		*fd = own;
	else
		close(own);
	return p;
}

struct ibv_mr *registered(void *addr, size_t len)
{
	struct ibv_mr *mr = ibv_reg_mr(fake_pd(), addr, len, ACCESS);

	must(mr && mr->addr == addr && mr->length == len && mr->pd == fake_pd());
	return mr;
}

bool leased(int fd, int type)
{
	return fcntl(fd, F_GETLEASE) == type;
}

static pid_t other(const char *what, const char *size)
{
	const char *argv[] = { self, what, path, size, NULL };
	pid_t pid;

	must(!posix_spawn(&pid, self, NULL, NULL, (char **)(void *)argv, environ));
	return pid;
}

pid_t truncater(off_t size)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)size);
	return other("--truncate", text);
}

pid_t opener(void)
{
	return other("--open", NULL);
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

bool ended(pid_t pid, int ms)
{
	long end = now_ms() + ms;
	int status;
	pid_t done;

	while (!(done = waitpid(pid, &status, WNOHANG)) && now_ms() < end)
		poll(NULL, 0, 1);
	must(done == 0 || (done == pid && WIFEXITED(status) && !WEXITSTATUS(status)));
	return done;
}

static off_t size_now(void)
{
	struct stat st;

	must(!stat(path, &st));
	return st.st_size;
}

/* The hazard itself: the file goes, the region stays, and nobody is told. */
static void scene_bare(void)
{
	struct ibv_mr *mr = registered(mapped(NULL), SIZE);

	must(fake_made(mr));
	must(ended(truncater(0), PATIENCE_MS) && size_now() == 0);
	must(fake_live() == 1);
	must(!ibv_dereg_mr(mr) && !fake_live());
}

static void scene_revoke(void)
{
	struct ibv_mr *mr;
	int fd;

	mr = registered(mapped(&fd), SIZE);
	must(leased(fd, F_WRLCK) && fake_live() == 1 && fake_registered() == 1 && !fake_made(mr));
	must(ended(truncater(0), PATIENCE_MS) && size_now() == 0);
	must(!fake_live() && leased(fd, F_UNLCK));
	must(mr->lkey && mr->length == SIZE);
	must(!ibv_dereg_mr(mr) && !fake_live());
	/* And once more: what was broken is forgotten. */
	must(!ftruncate(fd, SIZE));
	mr = registered(mapped(NULL), SIZE);
	must(!ibv_dereg_mr(mr));
}

/* The descriptor is closed right away. What opens is let on when the region is gone, and no lease is left. */
static void scene_closed(void)
{
	struct ibv_mr *mr = registered(mapped(NULL), SIZE);

	must(fake_live() == 1);
	must(ended(truncater(PAGE), PATIENCE_MS) && size_now() == PAGE && !fake_live());
	must(!ibv_dereg_mr(mr));
}

static void scene_left_alone(void)
{
	struct ibv_mr *mr[3];
	int fd, i;
	char *p = mapped(&fd);

	/* Neither whole pages, nor apart; through the three calls. */
	mr[0] = registered(p + 100, 5000);
	mr[1] = ibv_reg_mr_iova(fake_pd(), p, SIZE, 4096, ACCESS);
	mr[2] = ibv_reg_mr_iova2(fake_pd(), p + PAGE, 1, 4096, ACCESS);
	must(mr[1] && mr[2] && fake_live() == 3 && leased(fd, F_WRLCK));
	must(ibv_rereg_mr(mr[1], IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	for (i = 0; i < 3; i++)
		must(leased(fd, F_WRLCK) && !ibv_dereg_mr(mr[i]));
	must(!fake_live() && leased(fd, F_UNLCK));
}

static void scene_read(void)
{
	int fd = file_open(O_RDONLY);
	char *p = file_map(fd, PROT_READ);
	struct ibv_mr *mr = ibv_reg_mr(fake_pd(), p, SIZE, IBV_ACCESS_REMOTE_READ);

	must(mr && leased(fd, F_RDLCK));
	must(ended(truncater(0), PATIENCE_MS) && !fake_live());
	must(!ibv_dereg_mr(mr));
}

/*
 * A mapping for reading of a description that may write: it has a lease for writing, which is all
 * that the kernel gives there, and holes are filled without touching the mapping. What such a
 * mapping cannot give, a registration for writing, is left to the provider.
 */
static void scene_protection(void)
{
	int fd = file_open(O_RDWR);
	struct ibv_mr *mr;
	struct stat st;
	char *p;

	must(!ftruncate(fd, 0) && !ftruncate(fd, SIZE));
	p = file_map(fd, PROT_READ);
	mr = ibv_reg_mr(fake_pd(), p, SIZE, IBV_ACCESS_REMOTE_READ);
	must(mr && leased(fd, F_WRLCK) && !fstat(fd, &st) && st.st_blocks >= (blkcnt_t)(SIZE / 512));
	must(ended(truncater(0), PATIENCE_MS) && !fake_live() && !ibv_dereg_mr(mr));
	must(!ftruncate(fd, SIZE));
	mr = registered(p, SIZE);
	must(fake_made(mr) && leased(fd, F_UNLCK) && !ibv_dereg_mr(mr));
}

/* Somebody has the file open, and stays: the region is made all the same. */
static void scene_in_the_way(void)
{
	pid_t pid = opener();
	struct ibv_mr *mr;
	char *p;
	int fd, i;

	for (i = 0; i < PATIENCE_MS && size_now() == SIZE; i++)
		poll(NULL, 0, 1);
	must(size_now() > SIZE);
	p = mapped(&fd);
	mr = registered(p, SIZE);
	must(fake_made(mr) && leased(fd, F_UNLCK) && fake_live() == 1);
	must(!ibv_dereg_mr(mr));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What the provider says is what the program sees. */
static void scene_refused(void)
{
	struct ibv_mr *mr;
	int fd;
	char *p = mapped(&fd);

	fake_refuse(EFAULT, 0);
	errno = 0;
	must(!ibv_reg_mr(fake_pd(), p, SIZE, ACCESS) && errno == EFAULT && leased(fd, F_UNLCK));
	fake_refuse(0, 0);
	mr = registered(p, SIZE);
	fake_refuse(0, EBUSY);
	must(ibv_dereg_mr(mr) == EBUSY && fake_live() == 1 && leased(fd, F_WRLCK));
	fake_refuse(0, 0);
	must(!ibv_dereg_mr(mr) && leased(fd, F_UNLCK));
}

/* The child has no region, no device and no lease, and takes none of its parent's. */
static void scene_fork(void)
{
	int fd, status;
	struct ibv_mr *mr = registered(mapped(&fd), SIZE);
	struct stat st;
	pid_t pid;

	must(descriptors(path) > 1);
	pid = fork();
	if (!pid) {
		must(!ibv_dereg_mr(mr));
		must(!fstat(fake_pd()->context->cmd_fd, &st) && st.st_rdev == makedev(1, 3)); /* /dev/null */
		/* The program's own is left. */
		must(descriptors(path) == 1);
		mr = registered(malloc(SIZE), SIZE);
		must(!ibv_dereg_mr(mr));
		exit(0);
	}
	must(waitpid(pid, &status, 0) == pid && !status);
	must(leased(fd, F_WRLCK) && fake_live() == 1);
	must(ended(truncater(0), PATIENCE_MS) && !fake_live());
	must(!ibv_dereg_mr(mr));
}

/* hold: whoever opens waits for the program ... */
static void scene_hold(void)
{
	int fd;
	struct ibv_mr *mr = registered(mapped(&fd), SIZE);
	pid_t pid = truncater(0);

	must(!ended(pid, 300) && fake_live() == 1 && size_now() == SIZE);
	must(!ibv_dereg_mr(mr) && !fake_live());
	must(ended(pid, PATIENCE_MS) && size_now() == 0);
}

/* ... or, here, for a second. */
static void scene_deadline(void)
{
	int fd;
	struct ibv_mr *mr = registered(mapped(&fd), SIZE);
	long began = now_ms();

	must(ended(truncater(0), PATIENCE_MS) && !fake_live());
	must(now_ms() - began >= 1000);
	must(!ibv_dereg_mr(mr));
}

static const struct scene {
	const char *name;
	void (*play)(void);
} scenes[] = {
	{ "bare", scene_bare },
	{ "revoke", scene_revoke },
	{ "closed", scene_closed },
	{ "left_alone", scene_left_alone },
	{ "read", scene_read },
	{ "protection", scene_protection },
	{ "in_the_way", scene_in_the_way },
	{ "refused", scene_refused },
	{ "fork", scene_fork },
	{ "hold", scene_hold },
	{ "deadline", scene_deadline },
	{ "unmap", scene_unmap },
	{ "fixed", scene_fixed },
	{ "remap", scene_remap },
	{ "many", scene_many },
	{ "descriptor_replaced", scene_descriptor_replaced },
	{ "descriptors_closed", scene_descriptors_closed },
	{ "private", scene_private },
	{ "signals", scene_signals },
	{ "own_changes", scene_own_changes },
	{ "memfd", scene_memfd },
};

static int be_other(char **argv)
{
	if (!strcmp(argv[1], "--truncate"))
		return truncate(argv[2], atoll(argv[3])) != 0;
	/* Says by the size that the file is open. */
	if (open(argv[2], O_RDWR) < 0 || truncate(argv[2], SIZE + PAGE))
		return 1;
	pause();
	return 0;
}

/* preload_program FOLDER SCENE: exits with 0 if it went as it must. */
int main(int argc, char **argv)
{
	static const char zeros[SIZE];
	size_t i;
	int fd;

	if (argc > 2 && argv[1][0] == '-')
		return be_other(argv);
	must(argc == 3 && readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	snprintf(path, sizeof(path), "%s/file", argv[1]);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd >= 0 && write(fd, zeros, SIZE) == SIZE && !close(fd));
	for (i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		if (strcmp(scenes[i].name, argv[2]))
			continue;
		scenes[i].play();
		return 0;
	}
	fprintf(stderr, "%s: no such scene\n", argv[2]);
	return 2;
}
