/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A policy decision is two look-ups: who the peer is to this policy (its class), then what the class may do.
 * The agent compiles rules so that within a class the most specific row that exists is the answer. */
#pragma once
#include "../lib/kernel.h"
#include "../lib/limits.h"

struct peer_key {
	__u32 policy;   /* policy set << 1 | (ingress ? 1 : 0) */
	__u32 identity; /* 0: anyone whom no row names */
};
ASSERT_SIZE(struct peer_key, 8);

enum class_form {
	FORM_PORT = 1,     /* rows with protocol and port */
	FORM_RANGE = 2,    /* rows in class_ranges */
	FORM_PROTOCOL = 4, /* rows with protocol and port 0 */
	FORM_ANY = 8,      /* the row with protocol 0 and port 0 */
};

struct peer {
	__u32 class_id;
	__u32 forms; /* bits of class_form that the class has rows of; others are not probed */
};
ASSERT_SIZE(struct peer, 8);

struct class_key {
	__u32 class_id;
	__u8 protocol; /* 0: any */
	__u8 pad;
	__be16 port;   /* 0: any; ICMP: 256 + type */
};
ASSERT_SIZE(struct class_key, 8);

struct class_range_key {
	__u32 prefixlen; /* CLASS_RANGE_EXACT + bits of the port */
	struct class_key key;
};
ASSERT_SIZE(struct class_range_key, 12);
#define CLASS_RANGE_EXACT 48 /* class, protocol and padding */

enum rule_action { RULE_ALLOW = 0, RULE_DENY = 1 };

struct rule {
	__u8 action;
	__u8 auth;   /* 0: none asked for */
	__u16 proxy; /* L7 listener's id; 0: none */
};
ASSERT_SIZE(struct rule, 4);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct peer_key);
	__type(value, struct peer);
	__uint(max_entries, PEERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct class_key);
	__type(value, struct rule);
	__uint(max_entries, CLASSES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct class_range_key);
	__type(value, struct rule);
	__uint(max_entries, CLASSES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} class_ranges SEC(".maps");
