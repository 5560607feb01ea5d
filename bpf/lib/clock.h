/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Time for lifetimes: ticks of 2^30 ns (1.07 s) of the monotonic clock, which user space reads as well. */
#pragma once
#include "config.h"

#define TICK_SHIFT 30

static __always_inline __u32 ticks(void)
{
	return (config.coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns()) >> TICK_SHIFT;
}

static __always_inline bool is_past(__u32 when, __u32 now)
{
	return (__s32)(when - now) < 0;
}
