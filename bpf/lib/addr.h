/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One address type for both families: IPv4 is mapped into IPv6 (::ffff:a.b.c.d), so there is one code path and one key. */
#pragma once
#include "kernel.h"

struct addr {
	__be32 w[4]; /* network order */
};

/* For members that are copied much: in eights it takes half the instructions. */
#define WIDE __attribute__((aligned(8)))
typedef __u64 __attribute__((may_alias)) half_addr;

/* Half an address that lies on a multiple of eight. */
static __always_inline __u64 addr_half(const struct addr *a, int half)
{
	return ((const half_addr *)__builtin_assume_aligned(a, 8))[half];
}

/* An address as two numbers, which functions take. */
static __always_inline __u64 first_words(const struct addr *a)
{
	return a->w[0] | (__u64)a->w[1] << 32;
}

static __always_inline __u64 last_words(const struct addr *a)
{
	return a->w[2] | (__u64)a->w[3] << 32;
}

static __always_inline struct addr addr_from_words(__u64 first, __u64 last)
{
	return (struct addr){ { first, first >> 32, last, last >> 32 } };
}

#define V4_MARK bpf_htonl(0x0000ffff)

static __always_inline struct addr addr_from_v4(__be32 v4)
{
	return (struct addr){ { 0, 0, V4_MARK, v4 } };
}

static __always_inline bool addr_is_v4(const struct addr *a)
{
	return a->w[2] == V4_MARK && !a->w[0] && !a->w[1];
}

static __always_inline bool addr_equal(const struct addr *x, const struct addr *y)
{
	return x->w[3] == y->w[3] && x->w[2] == y->w[2] && x->w[1] == y->w[1] && x->w[0] == y->w[0];
}

/* 0.0.0.0 or :: */
static __always_inline bool is_unspecified(const struct addr *a)
{
	return !a->w[3] && !a->w[0] && !a->w[1] && (!a->w[2] || a->w[2] == V4_MARK);
}
