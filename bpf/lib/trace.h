/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counting what passes, and counting and reporting what does not. */
#pragma once
#include "../maps/metrics.h"
#include "flow.h"

static __always_inline void count_forwarded(const struct __sk_buff *skb, __u32 direction)
{
	struct count *n = bpf_map_lookup_elem(&forwarded, &direction);

	if (n) {
		n->packets++;
		n->bytes += skb->len;
	}
}

static __always_inline void count_drop(const struct __sk_buff *skb, const struct flow *f, __u8 reason)
{
	struct drop_key key = { f->endpoint, reason, f->direction };
	struct count *n = bpf_map_lookup_elem(&drops, &key), first = { 1, skb->len };

	if (n) {
		n->packets++;
		n->bytes += skb->len;
	} else {
		bpf_map_update_elem(&drops, &key, &first, BPF_NOEXIST);
	}
}

/* Of the packet whose flow is this CPU's. */
OWN_FUNCTION int drop(struct __sk_buff *skb, int verdict)
{
	struct flow *f = this_flow();
	struct event *e;

	if (!f)
		return TC_ACT_SHOT;
	count_drop(skb, f, -verdict);
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (e) { /* full: the counters still tell */
		*e = (struct event){
			.time_ns = bpf_ktime_get_ns(), .ifindex = skb->ifindex, .length = skb->len,
			.src_identity = f->src_id, .dst_identity = f->dst_id, .src = f->src, .dst = f->dst,
			.sport = f->sport, .dport = f->dport, .endpoint = f->endpoint, .proto = f->proto,
			.icmp_type = f->icmp_type, .kind = EVENT_DROP, .reason = -verdict, .direction = f->direction,
		};
		bpf_ringbuf_submit(e, 0);
	}
	return TC_ACT_SHOT;
}

/* Ends every program: verdicts below zero are drops, others are TC actions. */
static __always_inline int finish(struct __sk_buff *skb, const struct flow *f, int verdict)
{
	if (unlikely(verdict < 0))
		return drop(skb, verdict);
	count_forwarded(skb, f->direction);
	return verdict;
}
