# SPDX-License-Identifier: BSD-3-Clause
"""Print this machine's time stamp counter frequency in kHz, for tsc_early_khz=.

An emulated CPU's counter is the real one. A guest that has to find out its speed
while the machine is busy gets it wrong now and then, once by a factor of fifteen.
"""
import ctypes
import mmap
import time

RDTSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret

page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(RDTSC)
rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))


def sample():
    """The counter and the clock at one moment: of several tries the least disturbed."""
    tries = []
    for _ in range(50):
        before = time.monotonic_ns()
        ticks = rdtsc()
        tries.append((time.monotonic_ns() - before, before, ticks))
    return min(tries)


spent, began, first = sample()
time.sleep(0.1)
late, ended, last = sample()
print((last - first) * 1_000_000 // (ended + late // 2 - began - spent // 2))
