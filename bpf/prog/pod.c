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
#include "../lib/deliver.h"
#include "../lib/identity.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

static __always_inline int check_pod_may_send(const struct __sk_buff *skb, struct flow *f, const struct endpoint *from)
{
	if (!from || from->ifindex != skb->ifindex) /* nobody sends with another's address */
		return DROP_INVALID_SOURCE;
	f->endpoint = from->id;
	f->src_id = from->identity;
	if (f->proto == IPPROTO_UDP && f->dport == config.tunnel_port && f->fragment != LATER_FRAGMENT)
		return DROP_ENCAPSULATION_PROHIBITED;
	return OK;
}

static __always_inline int leave_container(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *from = bpf_map_lookup_elem(&endpoints, &f->src), *to;
	struct ipcache_entry *remote = NULL;
	int verdict = check_pod_may_send(skb, f, from);

	if (verdict != OK)
		return verdict;
	to = bpf_map_lookup_elem(&endpoints, &f->dst);
	if (to) {
		f->dst_id = to->identity;
	} else {
		remote = find_in_ipcache(&f->dst);
		f->dst_id = remote ? remote->identity : identity_of_world(&f->dst);
	}
	verdict = authorise(skb, f, end_of(from), end_of(to), false);
	if (verdict != OK)
		return verdict;
	f->direction = EGRESS;
	if (to)
		return deliver_locally(skb, to);
	if (remote && remote->flags & IPCACHE_TUNNEL && (!(remote->flags & IPCACHE_SKIP_TUNNEL) || f->replies_by_overlay))
		return encapsulate(skb, remote, f->src_id);
	return TC_ACT_OK;
}

SEC("tc/from_container")
int from_container(struct __sk_buff *skb)
{
	struct flow f = { .direction = EGRESS };
	int verdict = parse(skb, &f);

	if (verdict == OK)
		verdict = leave_container(skb, &f);
	return finish(skb, &f, verdict);
}

static __always_inline int enter_container(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &f->dst);

	if (!to || to->ifindex != skb->ifindex)
		return DROP_UNROUTABLE;
	f->dst_id = to->identity;
	f->src_id = identity_of(&f->src);
	f->endpoint = to->id;
	return authorise(skb, f, end_of(NULL), end_of(to), false);
}

SEC("tc/to_container")
int to_container(struct __sk_buff *skb)
{
	struct flow f = { .direction = INGRESS };
	int verdict = parse(skb, &f);

	if (verdict == OK)
		verdict = enter_container(skb, &f);
	return finish(skb, &f, verdict);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
