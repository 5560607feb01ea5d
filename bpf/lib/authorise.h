/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The decision about one packet: conntrack first, then the policies of those of its ends that live on this node. */
#pragma once
#include "../maps/endpoints.h"
#include "conntrack.h"
#include "policy.h"

/* One end of a flow: a copy, all zero when it lives elsewhere. Copies, because with `client = reply ? to : from` clang later
 * tests `reply` instead of the pointer and the verifier no longer knows that it is not NULL. */
struct end {
	__u32 policy;
	__u32 ifindex; /* of its device */
	__u16 id;
	bool is_local; /* known at compile time: no branch of a program asks for it */
};

static __always_inline struct end end_of(const struct endpoint *ep)
{
	return ep ? (struct end){ ep->policy, ep->ifindex, ep->id, true } : (struct end){};
}

/* Connections are those of the pods that have an address now: a device's number never comes back, and the sum of two can only
 * grow. */
static __always_inline __u32 devices_of(struct end from, struct end to)
{
	return from.ifindex + to.ifindex;
}

static __always_inline int judge_end(struct flow *f, struct end end, enum direction direction)
{
	f->direction = direction;
	f->endpoint = end.id;
	return policy_verdict(end.policy, direction, direction == EGRESS ? f->dst_id : f->src_id, f);
}

static __always_inline int judge(struct flow *f, struct end from, struct end to)
{
	int verdict = OK;

	if (from.is_local)
		verdict = judge_end(f, from, EGRESS);
	if (verdict == OK && to.is_local)
		verdict = judge_end(f, to, INGRESS);
	return verdict;
}

/* An ICMP error belongs to the connection whose packet it quotes, if it goes to the one who sent that. */
static __always_inline bool is_related(struct flow *f, __u32 devices, __u32 now)
{
	struct flow *quoted = quoted_flow();
	struct connection c = {};

	if (!quoted || !quoted->proto || !addr_equal(&quoted->dst, &f->dst))
		return false;
	find_connection(quoted, devices, now, &c);
	if (!c.known)
		return false;
	f->replies_by_overlay = !!(c.entry->flags & CT_VIA_OVERLAY);
	f->balanced = !!(c.entry->flags & CT_BALANCED);
	return true;
}

/* An end without policy blocks replies too: nothing passes before an endpoint's first policy. */
static __always_inline int check_ready(struct flow *f, struct end end, enum direction direction)
{
	if (likely(!end.is_local || end.policy))
		return OK;
	f->direction = direction;
	f->endpoint = end.id;
	return DROP_NO_POLICY;
}

static __always_inline int authorise(struct flow *f, struct end from, struct end to, bool via_overlay)
{
	struct connection c = {};
	__u32 now = ticks(), devices = devices_of(from, to);
	int verdict = check_ready(f, from, EGRESS);

	if (verdict == OK)
		verdict = check_ready(f, to, INGRESS);
	if (unlikely(verdict != OK))
		return verdict;
	if (unlikely(f->related)) /* one about an unknown connection is judged as ICMP, but opens none */
		return is_related(f, devices, now) ? OK : judge(f, from, to);
	find_connection(f, devices, now, &c);
	if (c.known && !f->opens && !sent_by_client(&c)) {
		f->reply = 1;
		f->replies_by_overlay = !!(c.entry->flags & CT_VIA_OVERLAY);
		f->balanced = !!(c.entry->flags & CT_BALANCED);
		refresh_connection(&c, f, c.entry->flags | CT_REPLIED, now);
		return OK;
	}
	verdict = judge(f, from, to);
	if (unlikely(verdict != OK)) {
		if (c.known && sent_by_client(&c)) /* revoked: the other side's packets are replies no more */
			forget_connection(&c, f);
		return verdict;
	}
	if (likely(c.known && !f->opens)) {
		refresh_connection(&c, f, (c.entry->flags & ~(CT_VIA_OVERLAY | CT_BALANCED)) | way_back(f, via_overlay), now);
		return OK;
	}
	return open_connection(&c, f, devices, via_overlay, now);
}
