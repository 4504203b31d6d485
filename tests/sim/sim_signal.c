/* SPDX-License-Identifier: BSD-3-Clause */
/* Signals: queues of a limited length, directed at a thread or at the process. send_sigio_to_task() of
 * fs/fcntl.c. */
#include <errno.h>
#include <poll.h>

#include "sim_private.h"

static void queue_put(struct sim_signals *q, const siginfo_t *info)
{
	if (q->count == SIM_SIGNALS)
		sim_die("too many signals");
	q->queue[(q->head + q->count++) % SIM_SIGNALS] = *info;
	sim.signals_pending++;
}

/* The oldest one that is in set; those before it keep their order. */
static bool queue_take(struct sim_signals *q, const sigset_t *set, siginfo_t *info)
{
	unsigned int i;

	for (i = 0; i < q->count; i++)
		if (sigismember(set, q->queue[(q->head + i) % SIM_SIGNALS].si_signo))
			break;
	if (i == q->count)
		return false;
	*info = q->queue[(q->head + i) % SIM_SIGNALS];
	for (; i; i--)
		q->queue[(q->head + i) % SIM_SIGNALS] = q->queue[(q->head + i - 1) % SIM_SIGNALS];
	q->head = (q->head + 1) % SIM_SIGNALS;
	q->count--;
	sim.signals_pending--;
	return true;
}

void sim_signal_send(struct sim_thread *t, int signo, int fd)
{
	siginfo_t info = { .si_signo = signo, .si_code = POLL_MSG };

	info.si_fd = fd;
	info.si_band = POLLIN | POLLRDNORM | POLLMSG;
	if (sim.signals_pending >= sim.signal_room) {
		/* SIGIO takes its place: blocked in that thread, or the process is gone. */
		if (t->ours)
			sim_violate("seam", "SIGIO for a thread that does not block it");
		sim.signals_lost++;
		return;
	}
	queue_put(t->signals, &info);
	sim_wake(t->signals, true);
}

static void signal_send(struct sim_ofd *ofd, int fd)
{
	struct sim_thread *t = sim_thread_find(ofd->owner);

	/* Nobody is told when the thread has exited. */
	if (t && !t->exited)
		sim_signal_send(t, ofd->signo, fd);
}

void sim_signal_lease(struct sim_ofd *ofd)
{
	if (!ofd->signo || !ofd->owner) {
		sim_violate("I2", "a break without F_SETSIG: plain SIGIO, which kills the process");
		return;
	}
	signal_send(ofd, ofd->told_fd);
}

void sim_signal_holder(const char *path, int fd)
{
	struct sim_inode *inode;
	struct sim_ofd *ofd;
	struct pl_list *pos;

	sim_lock();
	inode = sim_inode_of(path);
	pl_list_for_each (pos, &inode->ofds) {
		ofd = pl_container(pos, struct sim_ofd, link);
		if (ofd->lease != F_UNLCK)
			signal_send(ofd, fd);
	}
	sim_unlock();
}

void sim_signal_process(int signo, int fd)
{
	siginfo_t info = { .si_signo = signo, .si_code = POLL_MSG };
	struct sim_thread *t;
	struct pl_list *pos;

	info.si_fd = fd;
	sim_lock();
	queue_put(&sim.process, &info);
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		sim_wake(t->signals, true);
	}
	sim_unlock();
}

void sim_signal_room(unsigned int count)
{
	sim_lock();
	sim.signal_room = count;
	sim_unlock();
}

unsigned int sim_signals_lost(void)
{
	unsigned int n;

	sim_lock();
	n = sim.signals_lost;
	sim_unlock();
	return n;
}

void sim_signal_reset(void)
{
	sim.signal_room = SIM_SIGNALS;
	sim.signals_lost = 0;
	sim.signals_pending = 0;
	sim.process.count = sim_self->signals->count = 0;
}

/* sys.h */

int pl_sys_wait_signal(const sigset_t *set, siginfo_t *info, uint64_t timeout_ns)
{
	int r = sim_enter("wait_signal", SIM_BLOCKING);
	struct sim_thread *t = sim_self;
	uint64_t until;

	if (r)
		return r;
	sim_lock();
	if (sigismember(set, SIGIO))
		sim_violate("seam", "waits for SIGIO, and would take the application's");
	until = pl_add_sat(sim.now, timeout_ns);
	for (;;) {
		r = -EAGAIN;
		if (queue_take(t->signals, set, info) || queue_take(&sim.process, set, info)) {
			r = info->si_signo;
			break;
		}
		if (until <= sim.now)
			break;
		sim_wait(t->signals, until);
	}
	sim_unlock();
	return r;
}

/* Its place in the queue is its own. The thread stands for it: it needs no more than one. */
int pl_sys_alarm_new(int signo, timer_t *alarm)
{
	int r = sim_enter("alarm_new", SIM_FAST);

	if (r)
		return r;
	sim_lock();
	r = sim.signals_pending < sim.signal_room ? 0 : -EAGAIN;
	sim_unlock();
	if (r)
		return r;
	sim_self->alarm_signo = signo;
	*alarm = sim_self;
	return 0;
}

void pl_sys_alarm_raise(timer_t alarm)
{
	siginfo_t info = { .si_code = SI_TIMER };
	struct sim_thread *t;
	struct pl_list *pos;

	sim_enter("alarm_raise", SIM_FAST);
	sim_lock();
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		if (t != alarm || t->exited)
			continue;
		info.si_signo = t->alarm_signo;
		queue_put(t->signals, &info);
		sim_wake(t->signals, true);
	}
	sim_unlock();
}

void pl_sys_alarm_free(timer_t alarm)
{
	(void)alarm;
	sim_enter("alarm_free", SIM_FAST);
}

int pl_sys_signal_thread(pthread_t thread, int signo)
{
	int r = sim_enter("signal_thread", SIM_FAST);
	siginfo_t info = { .si_signo = signo, .si_code = SI_TKILL };
	struct sim_thread *t;
	struct pl_list *pos;

	if (r)
		return r;
	sim_lock();
	r = -ESRCH;
	pl_list_for_each (pos, &sim.threads) {
		t = pl_container(pos, struct sim_thread, link);
		if (!pthread_equal(t->pthread, thread))
			continue;
		r = sim.signals_pending < sim.signal_room ? 0 : -EAGAIN;
		if (!r) {
			queue_put(t->signals, &info);
			sim_wake(t->signals, true);
		}
		break;
	}
	sim_unlock();
	return r;
}
