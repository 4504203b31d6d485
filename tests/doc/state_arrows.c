/* SPDX-License-Identifier: BSD-3-Clause */
/* Prints the library's state tables for check_states.py. */
#include <stdio.h>

#include "state.h"

int main(void)
{
	const struct pl_arrow *a;
	size_t i;

	for (i = 0; i < pl_lease_arrow_count; i++) {
		a = &pl_lease_arrows[i];
		printf("lease|%s|%s|%s\n", pl_lease_state_name((enum pinlease_state)a->from),
		       pl_lease_state_name((enum pinlease_state)a->to), a->name);
	}
	for (i = 0; i < pl_file_arrow_count; i++) {
		a = &pl_file_arrows[i];
		printf("file|%s|%s|%s\n", pl_file_state_name((enum pl_file_state)a->from),
		       pl_file_state_name((enum pl_file_state)a->to), a->name);
	}
	return 0;
}
