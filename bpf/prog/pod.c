// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The two hooks on the host end of a pod's veth.
 *
 *   from_container  ingress: what the pod sends → a pod here | the overlay | this node's stack
 *   to_container    egress: what this node's stack sends to the pod
 *
 * Both ends of the veth have one MAC and IFF_NOARP, so there are no neighbours at all. bpf_redirect_peer skips the target's
 * egress hook: what stays on the node is judged for both ends in from_container.
 */
#include "../lib/authorise.h"
#include "../lib/balance.h"
#include "../lib/deliver.h"
#include "../lib/identity.h"
#include "../lib/reject.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

static __always_inline int check_pod_may_send(const struct __sk_buff *skb, struct flow *f, const struct endpoint *from)
{
	if (unlikely(!from || from->ifindex != skb->ifindex)) /* nobody sends with another's address */
		return DROP_INVALID_SOURCE;
	f->endpoint = from->id;
	f->src_id = from->identity;
	if (f->proto == IPPROTO_UDP && f->dport == config.tunnel_port && f->fragment != LATER_FRAGMENT)
		return DROP_ENCAPSULATION_PROHIBITED;
	return OK;
}

/* A copy of what is known of an address: fewer states for the verifier than a pointer into one map or the other. */
struct whereabouts {
	struct ipcache_entry entry;
	bool known;
};

static __always_inline struct whereabouts locate(const struct addr *a)
{
	struct ipcache_entry *found = find_in_ipcache(a);

	return found ? (struct whereabouts){ *found, true } : (struct whereabouts){};
}

/* Another node's pod: no address that a service could have. */
static __always_inline bool is_remote_pod(const struct whereabouts *to)
{
	return (to->entry.flags & (IPCACHE_TUNNEL | IPCACHE_SKIP_TUNNEL)) == IPCACHE_TUNNEL;
}

static __always_inline bool goes_by_overlay(const struct ipcache_entry *to, const struct flow *f)
{
	return to->flags & IPCACHE_TUNNEL && (!(to->flags & IPCACHE_SKIP_TUNNEL) || f->replies_by_overlay);
}

static __always_inline int leave_node(struct __sk_buff *skb, struct flow *f, struct end from, const struct whereabouts *to)
{
	int verdict;

	f->dst_id = to->known ? to->entry.identity : identity_of_world(&f->dst);
	verdict = authorise(f, from, end_of(NULL), false);
	if (verdict != OK)
		return verdict;
	f->direction = EGRESS;
	if (unlikely(answers_service(f))) {
		verdict = restore_source(skb);
		if (verdict != OK)
			return verdict;
		if (f->balanced && !goes_by_overlay(&to->entry, f))
			return leave_towards(skb);
	}
	return goes_by_overlay(&to->entry, f) ? encapsulate(skb, f, &to->entry, f->src_id, false) : TC_ACT_OK;
}

static __always_inline int stay_on_node(struct __sk_buff *skb, struct flow *f, struct end from, const struct endpoint *to)
{
	int verdict;

	f->dst_id = to->identity;
	verdict = authorise(f, from, end_of(to), false);
	if (verdict != OK)
		return verdict;
	f->direction = EGRESS;
	if (unlikely(answers_service(f)))
		verdict = restore_source(skb);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}

/* A service whose address the socket did not translate. */
static __always_inline int balance_pod(struct __sk_buff *skb, struct flow *f)
{
	struct lb_key key = service_key(f);
	struct lb_service *service;

	if (f->related)
		return balance_error(skb, f);
	if (!can_be_balanced(f))
		return OK;
	service = find_service(&key, false);
	return service ? balance(skb, f, service, false) : OK;
}

/* A service has led the pod to itself. No policy applies to what never leaves it. */
static __always_inline int reach_itself(struct __sk_buff *skb, struct flow *f, const struct endpoint *self)
{
	struct addr seen = service_loopback(&f->src);
	int verdict = rewrite_end(skb, SOURCE, &seen, f->sport);

	return verdict == OK ? deliver_locally(skb, self) : verdict;
}

static __always_inline int answer_itself(struct __sk_buff *skb, struct flow *f, const struct endpoint *self)
{
	struct flow *quoted = quoted_flow();
	struct addr own = f->src;
	int verdict = restore_source(skb);

	if (verdict == OK && (!f->balanced || !quoted))
		return DROP_UNROUTABLE;
	if (verdict == OK && quoted)
		verdict = f->related ? rewrite_error(skb, DESTINATION, &own, quoted->dport)
				     : rewrite_end(skb, DESTINATION, &own, f->dport);
	return verdict == OK ? deliver_locally(skb, self) : verdict;
}

static __always_inline bool is_service_loopback(const struct addr *a)
{
	struct addr own = service_loopback(a);

	return addr_equal(a, &own);
}

static __always_inline int leave_container(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *from = bpf_map_lookup_elem(&endpoints, &f->src), *to;
	int verdict = check_pod_may_send(skb, f, from);
	struct whereabouts where = {};

	if (verdict != OK)
		return verdict;
	to = bpf_map_lookup_elem(&endpoints, &f->dst);
	if (!to)
		where = locate(&f->dst);
	if (!to && !is_remote_pod(&where)) {
		if (unlikely(is_service_loopback(&f->dst)))
			return answer_itself(skb, f, from);
		verdict = balance_pod(skb, f);
		if (verdict != OK)
			return verdict;
		if (unlikely(f->balanced)) {
			if (addr_equal(&f->src, &f->dst))
				return reach_itself(skb, f, from);
			to = bpf_map_lookup_elem(&endpoints, &f->dst);
			where = locate(&f->dst);
		}
	}
	return to ? stay_on_node(skb, f, end_of(from), to) : leave_node(skb, f, end_of(from), &where);
}

SEC("tc/from_container")
int from_container(struct __sk_buff *skb)
{
	struct flow *f = new_flow(EGRESS);
	int verdict;

	if (!f)
		return TC_ACT_SHOT;
	verdict = parse(skb, f);
	if (verdict == OK)
		verdict = leave_container(skb, f);
	verdict = opaque(verdict);
	if (unlikely(verdict == DROP_NO_BACKEND)) {
		drop(skb, verdict);
		return reject(skb) ? bpf_redirect_peer(skb->ifindex, 0) : TC_ACT_SHOT;
	}
	return finish(skb, f, verdict);
}

static __always_inline int enter_container(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &f->dst);
	int verdict;

	if (!to || to->ifindex != skb->ifindex)
		return DROP_UNROUTABLE;
	f->dst_id = to->identity;
	f->src_id = identity_of(&f->src);
	f->endpoint = to->id;
	verdict = authorise(f, end_of(NULL), end_of(to), false);
	return verdict == OK && answers_service(f) ? restore_source(skb) : verdict;
}

SEC("tc/to_container")
int to_container(struct __sk_buff *skb)
{
	struct flow *f = new_flow(INGRESS);
	int verdict;

	if (!f)
		return TC_ACT_SHOT;
	verdict = parse(skb, f);
	if (verdict == OK)
		verdict = enter_container(skb, f);
	return finish(skb, f, verdict);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
