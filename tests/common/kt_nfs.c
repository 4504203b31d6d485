/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NFSv4.2 server and its client on one machine, by the kernel's own files and without
 * any program of nfs-utils: the three answers that mountd would give (who is this
 * client, what is exported, which file system has this number) are written into the
 * kernel's caches beforehand.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "kt_private.h"

#define NFSD "/proc/fs/nfsd"
#define RPC  "/proc/net/rpc"
/* NFSEXP_INSECURE_PORT, NFSEXP_NOSUBTREECHECK, NFSEXP_FSID: read and write, root stays root. */
#define EXPORT_FLAGS (0x2 | 0x400 | 0x2000)
#define NEVER	     "2147483647" /* when an entry expires */

static int write_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, line, strlen(line)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int export_folder(const char *dir)
{
	char line[KT_PATH_MAX + 64];
	int ret = write_line(RPC "/auth.unix.ip/channel", "nfsd 127.0.0.1 " NEVER " kt\n");

	snprintf(line, sizeof(line), "kt %s " NEVER " %d 65534 65534 0\n", dir, EXPORT_FLAGS);
	if (!ret)
		ret = write_line(RPC "/nfsd.export/channel", line);
	/* Type 1: a number, in the order of the wire. */
	snprintf(line, sizeof(line), "kt 1 \\x00000000 " NEVER " %s\n", dir);
	return ret ? ret : write_line(RPC "/nfsd.fh/channel", line);
}

/* The clients of an earlier life get at least ten seconds to come back: nobody else may open anything. */
static int start_server(void)
{
	int ret = write_line(NFSD "/versions", "-3\n");

	if (!ret)
		ret = write_line(NFSD "/nfsv4gracetime", "10\n");
	if (!ret)
		ret = write_line(NFSD "/portlist", "tcp 2049\n");
	return ret ? ret : write_line(NFSD "/threads", "2\n");
}

int kt_nfs_make(struct kt_nfs *nfs)
{
	static const char *const modules[] = { "modprobe", "-a", "nfsd", "nfs", NULL };
	int ret;

	if (kt_run(modules, "nfsv4"))
		return -ENODEV;
	ret = kt_fs_make(&nfs->server, "tmpfs", 16);
	if (ret)
		return ret;
	if (mount("nfsd", NFSD, "nfsd", 0, NULL) && errno != EBUSY)
		ret = -errno;
	if (!ret)
		ret = export_folder(nfs->server.dir);
	if (!ret)
		ret = start_server();
	if (!ret)
		ret = kt_fs_mount(&nfs->client, "nfs4", "127.0.0.1:/",
				  "vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,port=2049,sec=sys");
	if (ret)
		kt_nfs_drop(nfs);
	return ret;
}

/* The caches hold the exported folder: without the flush it stays mounted. */
void kt_nfs_drop(struct kt_nfs *nfs)
{
	if (nfs->client.dir[0])
		kt_fs_drop(&nfs->client);
	write_line(NFSD "/threads", "0\n");
	write_line(RPC "/nfsd.fh/flush", "1\n");
	write_line(RPC "/nfsd.export/flush", "1\n");
	write_line(RPC "/auth.unix.ip/flush", "1\n");
	kt_fs_drop(&nfs->server);
	umount(NFSD);
}
