/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 0: what leaves the library; everything else is hidden. */
#ifndef PL_API_EXPORT_H
#define PL_API_EXPORT_H

#define PL_API __attribute__((visibility("default")))

#endif
