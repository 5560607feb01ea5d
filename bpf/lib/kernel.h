/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel's and libbpf's declarations that every other header builds on. */
#pragma once
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* A function that is not inlined, for what is rare: the verifier follows it once, whatever its callers know, and their own paths
 * meet again behind it. Arguments are the context and numbers: Linux 5.10 takes no pointers. */
#define OWN_FUNCTION __attribute__((noinline))
#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)
#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size in user space")

#define AF_INET 2
#define AF_INET6 10
#define LOOPBACK 1 /* its ifindex in every network namespace */
