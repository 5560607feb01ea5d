/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections. The key's ends are ordered, so one look-up serves both directions; a flag tells which end is the client.
 * An entry lets replies and related errors pass, nothing else: packets of the original direction are judged each time. */
#pragma once
#include "../maps/conntrack.h"
#include "clock.h"
#include "flow.h"

struct connection {
	struct ct_key key;
	struct ct_entry *entry; /* NULL, expired, or of another pod that had an end's address: unknown */
	bool src_is_a, known;
};

/* Any total order will do: begin where addresses differ most. */
static __always_inline bool is_before(const struct addr *x, __be16 x_port, const struct addr *y, __be16 y_port)
{
	__u64 mine = addr_half(x, 1), other = addr_half(y, 1);

	if (likely(mine != other))
		return mine < other;
	mine = addr_half(x, 0);
	other = addr_half(y, 0);
	if (mine != other)
		return mine < other;
	return x_port < y_port;
}

static __always_inline void *conntrack_of(__u8 proto)
{
	return proto == IPPROTO_TCP ? (void *)&conntrack_tcp : (void *)&conntrack_any;
}

/* One answer to both questions: the verifier follows each by itself. */
static __always_inline bool is_stale(const struct ct_entry *entry, __u32 devices, __u32 now)
{
	return opaque((entry->devices ^ devices) | is_past(entry->expires, now));
}

static __always_inline void find_connection(const struct flow *f, __u32 devices, __u32 now, struct connection *c)
{
	c->src_is_a = is_before(&f->src, f->sport, &f->dst, f->dport);
	if (c->src_is_a) {
		c->key.a = f->src;
		c->key.b = f->dst;
		c->key.a_port = f->sport;
		c->key.b_port = f->dport;
	} else {
		c->key.a = f->dst;
		c->key.b = f->src;
		c->key.a_port = f->dport;
		c->key.b_port = f->sport;
	}
	c->key.proto = f->proto;
	if (f->proto == IPPROTO_TCP)
		c->entry = bpf_map_lookup_elem(&conntrack_tcp, &c->key);
	else
		c->entry = bpf_map_lookup_elem(&conntrack_any, &c->key);
	c->known = c->entry && !is_stale(c->entry, devices, now);
}

static __always_inline bool sent_by_client(const struct connection *c)
{
	return !!(c->entry->flags & CT_A_IS_CLIENT) == c->src_is_a;
}

static __always_inline __u32 lifetime(const struct flow *f, __u32 flags)
{
	if (f->proto != IPPROTO_TCP)
		return config.ct_any;
	if ((flags & (CT_CLIENT_CLOSED | CT_SERVER_CLOSED)) == (CT_CLIENT_CLOSED | CT_SERVER_CLOSED))
		return config.ct_tcp_fin;
	return flags & CT_REPLIED ? config.ct_tcp : config.ct_tcp_syn;
}

static __always_inline __u32 closed_by(const struct flow *f)
{
	if (f->tcp_flags & TCP_RST)
		return CT_CLIENT_CLOSED | CT_SERVER_CLOSED;
	if (f->tcp_flags & TCP_FIN)
		return f->reply ? CT_SERVER_CLOSED : CT_CLIENT_CLOSED;
	return 0;
}

/* How the answers to this packet of the client's go. */
static __always_inline __u32 way_back(const struct flow *f, bool via_overlay)
{
	return (via_overlay ? CT_VIA_OVERLAY : 0) | f->balanced * CT_BALANCED;
}

/* Writes only what changed: a cache line dirtied by every packet would be shared by all CPUs. */
static __always_inline void refresh_connection(const struct connection *c, const struct flow *f, __u32 flags, __u32 now)
{
	__u32 expires;

	flags |= closed_by(f);
	expires = now + lifetime(f, flags);

	if (c->entry->flags != flags)
		c->entry->flags = flags;
	if (c->entry->expires != expires)
		c->entry->expires = expires;
}

static __always_inline int open_connection(const struct connection *c, const struct flow *f, __u32 devices, bool via_overlay, __u32 now)
{
	struct ct_entry fresh = { .client_identity = f->src_id, .devices = devices };

	fresh.flags = (c->src_is_a ? CT_A_IS_CLIENT : 0) | way_back(f, via_overlay) | closed_by(f);
	fresh.expires = now + lifetime(f, fresh.flags);
	if (c->entry) { /* in place: an update of an LRU map takes a new element and frees the old one */
		*c->entry = fresh;
		return OK;
	}
	if (bpf_map_update_elem(conntrack_of(f->proto), &c->key, &fresh, BPF_ANY))
		return DROP_CT_CREATE_FAILED;
	return OK;
}

static __always_inline void forget_connection(const struct connection *c, const struct flow *f)
{
	bpf_map_delete_elem(conntrack_of(f->proto), &c->key);
}
