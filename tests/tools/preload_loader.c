/* SPDX-License-Identifier: BSD-3-Clause */
/* A program that has no libibverbs, and loads what has it, RTLD_LOCAL. preload_loader PLUGIN SCENE FILE */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *plugin = argc == 4 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	int (*play)(const char *scene, const char *path);

	*(void **)&play = plugin ? dlsym(plugin, "play") : NULL;
	if (!play) {
		fprintf(stderr, "%s\n", dlerror());
		return 2;
	}
	return play(argv[2], argv[3]);
}
